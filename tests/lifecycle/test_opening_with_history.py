"""Opening a state folder looks at what is not done; what is done lies beside it, untouched, however much there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ExecutionRequest, Executor, Policy, RecoveryReport, Settings, SpecConfig, recovery
from dms_executor.engine import Observed
from dms_executor.journal import Journal, Row
from dms_executor.oci import OciSpec

from .stand_in import StandIn, request

HISTORY = 30


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every path that Python's code asks the file system about."""
    paths: list[str] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int):
                paths.append(os.fsdecode(path))
            return function(path, *arguments, **options)

        return noted

    for name in ("listdir", "scandir", "open", "stat", "lstat"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    monkeypatch.setattr(os.path, "isdir", noting(os.path.isdir))
    return paths


async def test_the_folders_of_what_is_done_are_not_looked_into(
    state_dir: Path, rootfs: Path, oci_runtime: str, looked_at: list[str]
) -> None:
    settings: dict[str, Any] = {
        "policy": Policy.trusted(),
        "settings": Settings(engines={"oci": {"runtime": oci_runtime}}),
    }
    done = SpecConfig(type="memory", params={"script": ["echo hi"]})
    alive = OciSpec(image=f"rootfs:{rootfs}", cmd=["sleep", "1000"]).build()
    async with Executor.open(state_dir, **settings) as executor:
        for number in range(HISTORY):
            await executor.run(ExecutionRequest(job_id="old", execution_id=f"old-{number}", engine_spec=done))
        folders = {path.name for path in (state_dir / "executions").iterdir()}
        await executor.start(ExecutionRequest(job_id="job", execution_id="alive", engine_spec=alive))
    assert len(folders) == HISTORY

    def touched() -> set[str]:
        return {part for path in looked_at for part in path.split("/") if part in folders}

    looked_at.clear()
    async with Executor.open(state_dir, **settings) as executor:
        assert touched() == set()
        assert any(path.endswith("/bundle") for path in looked_at), "the one that is alive was not looked at"
        assert await executor.get_status("alive") == "running"
        await executor.recover()  # asked for by name, it looks everywhere
        assert touched() == folders
        await executor.cancel("alive", grace=0)


async def test_what_begins_during_a_survey_is_not_taken_for_lost(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        await executor.start(request("two", "forever"))
    open_rows = Journal.open_rows
    asked: list[int] = []

    async def but_two_at_first(journal: Journal) -> list[Row]:
        """As if `two` had been begun, and left, between the first read and the second."""
        return [row for row in await open_rows(journal) if asked or row.id == "one"]

    async def survey_of(engine: StandIn, tokens: Collection[str]) -> Mapping[str, Observed]:
        asked.append(len(tokens))
        return {token: seen for token, seen in (await StandIn.survey(engine)).items() if token in tokens}

    reports: list[RecoveryReport] = []
    again = asyncio.Event()
    one_pass = recovery._recover

    async def noted(*arguments: Any) -> RecoveryReport:
        reports.append(await one_pass(*arguments))
        if len(reports) == 2:
            again.set()
        return reports[-1]

    monkeypatch.setattr(recovery, "_recover", noted)
    monkeypatch.setattr(Journal, "open_rows", but_two_at_first)
    monkeypatch.setattr(StandIn, "survey_of", survey_of)
    async with Executor.open(state_dir) as executor:
        await asyncio.wait_for(again.wait(), 30)
        for name in ("one", "two"):
            assert await executor.get_status(name) == "running"
            await executor.cancel(name, grace=0)
            assert (await executor.wait(name)).reason == "cancelled"
    assert asked[0] == 1
    assert [(report.adopted, report.lost) for report in reports[:2]] == [(["one"], []), (["two"], [])]
