"""Today's package opens the state folders of each release and settles what they hold (scripts/record-state)."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, LogStreamRequest, Policy, Settings
from dms_executor.errors import ResultExpired
from dms_executor.oci import OciSpec

LAYOUTS = sorted(Path(__file__).with_name("layouts").glob("*.tar.xz"))
YEARS = 100 * 365 * 86400.0  # recorded long ago, whenever this is run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the recorded executions are root's")


def unpacked(archive: Path, target: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extraction_filter = lambda member, path: member  # Python 3.11.2 takes no such argument
        tar.extractall(target)
    return target / "state"


@pytest.fixture(params=LAYOUTS, ids=lambda path: path.name.removesuffix(".tar.xz"))
async def executor(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Executor]:
    state = await asyncio.to_thread(unpacked, request.param, tmp_path)
    settings = Settings(retention=YEARS, record_retention=YEARS)
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as opened:
        yield opened


async def log(executor: Executor, execution_id: str) -> bytes:
    async with await executor.get_log_stream(LogStreamRequest(execution_id=execution_id)) as stream:
        return await stream.read()


def test_there_is_a_layout_of_a_release() -> None:
    assert LAYOUTS


async def test_results_and_logs_are_as_they_were(executor: Executor) -> None:
    success = await executor.wait("success")
    assert (success.status, success.exit_code, success.stdout) == (ExecutionStatus.SUCCESS, 0, b"out\n")
    assert (success.stderr, len(success.outputs)) == (b"err\n", 1)
    assert sorted((await log(executor, "success")).split()) == [b"err", b"out"]
    failed = await executor.wait("failed")
    assert (failed.reason, failed.exit_code, failed.stdout) == ("exited", 3, b"failing\n")
    assert (await executor.wait("timed_out")).reason == "timed_out"
    assert (await executor.wait("cancelled")).status is ExecutionStatus.CANCELLED
    assert (await executor.wait("start_failed")).reason == "start_failed"
    with pytest.raises(ResultExpired):
        await executor.wait("expired")
    info = await executor.inspect("failed")
    assert (info.request.environment, info.request.labels) == ({"A": "b"}, {"kind": "failed"})


async def test_what_ran_when_its_callers_ended_is_settled(executor: Executor) -> None:
    async with asyncio.timeout(30):
        unseen, killed = await executor.wait("unseen"), await executor.wait("killed")
    # Its shim wrote the end down, though nobody looked.
    assert (unseen.reason, unseen.exit_code, unseen.stdout) == ("exited", 4, b"begin\n")
    assert (killed.status, killed.reason, killed.exit_code) == (ExecutionStatus.FAILED, "engine_lost", None)
    assert await log(executor, "killed") == b"begin\n"


async def test_it_can_be_used_on(executor: Executor, rootfs: Path, oci_runtime: str) -> None:
    before = [info.request.execution_id for info in await executor.list()]
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["true"]).build()
    result = await executor.run(ExecutionRequest(job_id="new", execution_id="new", engine_spec=spec))
    assert result.status is ExecutionStatus.SUCCESS
    assert [info.request.execution_id for info in await executor.list()] == [*before, "new"]
    await executor.remove("failed")
    sequences = [event.sequence async for event in _taken(executor, 5)]
    assert sequences == sorted(sequences)


async def _taken(executor: Executor, count: int) -> AsyncIterator[object]:
    async for event in executor.events(after=0):
        yield event
        count -= 1
        if count == 0:
            return
