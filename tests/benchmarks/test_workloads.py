"""Every workload in its tiniest form does its work; who fails is named and the others go on. No time is judged."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from failed import Failed
from field import Field, opened
from publish import SIZES, WORKLOADS, one

# A contestant that is not here, or that does no work here, may be missing: this package may not.
OURS = {
    "launch": {"launch"},
    "flight": {"flight-1", "flight-2"},
    "exec": {"exec"},
    "cancel": {"cancel"},
    "log": {"log-0", "log-1", "log-10"},
    "line": {"line"},
    "start": {"command"},
    "image": {"unpack", "reuse"},
    "many": {"many-start", "many-end"},
    "history": {"recovery"},
}


@pytest.fixture
def scratch(oci_runtime: str) -> Iterator[Path]:
    """A folder that the root of a user namespace can walk through."""
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("workload", OURS)
async def test_a_workload_is_done_by_us_on_each_runtime(workload: str, scratch: Path) -> None:
    if workload in ("cancel", "log", "line") and shutil.which("cc") is None:
        pytest.skip("no C compiler here, and the jobs' program needs one")
    if workload == "image" and not (shutil.which("umoci") and shutil.which("skopeo")):
        pytest.skip("needs umoci and skopeo")
    async with opened(scratch, SIZES["tiny"], [], "") as field:
        found = {one.key: one.values for one in await WORKLOADS[workload](field)}
        names = [ours.name for ours in field.ours]
    assert not [name for name in field.missing if name in names], field.missing
    for key in OURS[workload]:
        done = {name for name, values in found[key].items() if values}
        wanted = {"ours"} if key == "recovery" else {*names}
        if key == "command":
            wanted = {name.replace("ours", "dms-executor run") for name in names}
        assert wanted <= done
        assert all(value > 0 and math.isfinite(value) for values in found[key].values() for value in values)
    if workload not in ("exec", "cancel", "many", "history"):
        assert "ours, docker" in field.missing  # no daemon was given


async def test_a_late_workload_has_one_round(tmp_path: Path) -> None:
    async def good() -> float:
        return 0.001

    (tmp_path / "root").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        field = Field(tmp_path, SIZES["full"], [], "", stack)
        field.deadline = 0.0
        assert await field.in_turn({"good": good}, 30) == {"good": [1.0]}


async def test_who_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    async def good() -> float:
        return 0.001

    async def bad() -> float:
        raise Failed("exit code 3")

    async def hangs() -> float:
        await asyncio.Event().wait()
        return 0.0

    (tmp_path / "root").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        field = Field(tmp_path, SIZES["tiny"], [], "", stack)
        field.patience = 0.05
        times = await field.in_turn({"bad": bad, "good": good, "hangs": hangs}, 2)
    assert times == {"good": [1.0, 1.0]}
    assert field.missing["bad"] == "failed: failed.Failed: exit code 3"
    assert "TimeoutError" in field.missing["hangs"]


def test_a_workload_that_dies_or_hangs_is_named(tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()  # which the child means to make
    dies = one("launch", "tiny", tmp_path, [], 60.0)
    assert dies["workloads"] == []
    assert "FileExistsError" in dies["missing"]["workload launch"]
    hangs = one("launch", "tiny", tmp_path, [], 0.0)
    assert hangs["missing"] == {"workload launch": "ended after 0 s"}
