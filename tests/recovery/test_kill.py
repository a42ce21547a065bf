"""The calling program is killed at random moments and at every step; what it began has its true end all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, LogStreamRequest, Policy
from dms_executor.faults import POINTS
from dms_executor.oci import OciSpec

from .caller import KINDS, settings
from .leftovers import gone

pytestmark = [pytest.mark.timeout(900)]
CALLER = Path(__file__).with_name("caller.py")
KILLS = int(os.environ.get("DMS_EXECUTOR_KILLS", "24"))
_WINDOW = 1.2 * float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))  # seconds in which most of a caller's jobs end


async def call(*arguments: object, fault: str = "") -> asyncio.subprocess.Process:
    """The calling program, started."""
    environment = {**os.environ, "DMS_EXECUTOR_FAULT": fault}
    return await asyncio.create_subprocess_exec(
        sys.executable, str(CALLER), *map(str, arguments), env=environment, stdout=asyncio.subprocess.PIPE
    )


async def check_all(state: Path, runs: Path, runtime: str) -> dict[str, int]:
    """Reopens the state folder; every execution must have its true end. Counts what was found."""
    counts: dict[str, int] = {}
    tokens = set()
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(runtime)) as executor:
        for info in await executor.list():
            tokens.add(info.engine_ids.get("token", ""))
            found = await check_one(executor, info.request.execution_id, info.request.job_id, runs)
            counts[found] = counts.get(found, 0) + 1
    tokens |= set(await asyncio.to_thread(os.listdir, state / "executions"))
    left = await gone(state, tokens - {""})
    assert not left, f"left behind: {left}"
    return counts


async def check_one(executor: Executor, execution_id: str, kind: str, runs: Path) -> str:
    """One execution: its result, its log and how often it ran agree."""
    result = await asyncio.wait_for(executor.wait(execution_id), 60)
    times = await asyncio.to_thread(
        lambda: (runs / execution_id).read_text().count("\n") if (runs / execution_id).exists() else 0
    )
    if result.reason in ("start_failed", "cancelled") and result.started_at is None:
        assert times == 0, f"{execution_id} ran, but its record says {result}"
        return "undone"
    _, code, stdout = KINDS[kind]
    assert times == 1, f"{execution_id} ran {times} times: {result}"
    assert (result.exit_code, result.reason) == (code, "exited"), f"{execution_id}: {result}"
    assert result.stdout == stdout, f"{execution_id}: {result}"
    async with await executor.get_log_stream(LogStreamRequest(execution_id=execution_id)) as stream:
        assert await stream.read() == stdout
    assert result.status is (ExecutionStatus.SUCCESS if code == 0 else ExecutionStatus.FAILED)
    if kind == "outputs":
        assert await asyncio.to_thread((runs / f"{execution_id}.output" / "file").read_text) == "out\n"
    return "true end"


async def test_a_caller_killed_at_any_moment_loses_no_execution(tmp_path: Path, rootfs: Path, oci_runtime: str) -> None:
    state, runs = tmp_path / "state", tmp_path / "runs"
    runs.mkdir()
    chance = random.Random(20_000)
    kills = callers = 0
    while kills < KILLS:
        caller = await call(state, rootfs, runs, oci_runtime, f"k{callers}", 8)
        callers += 1
        assert caller.stdout is not None
        await caller.stdout.readline()
        await asyncio.sleep(chance.uniform(0.0, _WINDOW))  # the moment is the point of this test
        with contextlib.suppress(ProcessLookupError):  # it may have seen all its jobs through
            caller.send_signal(signal.SIGKILL)
        kills += await caller.wait() == -signal.SIGKILL
    counts = await check_all(state, runs, oci_runtime)
    print(f"{kills} kills of {callers} callers: {counts}")
    assert counts.get("true end", 0) > KILLS, counts


STEPS_OF_A_START = POINTS[: POINTS.index("intent_committed")]


@pytest.mark.parametrize("point", STEPS_OF_A_START)
async def test_a_caller_killed_between_two_steps(tmp_path: Path, rootfs: Path, oci_runtime: str, point: str) -> None:
    counts: dict[str, int] = {}
    for number, kind in enumerate(KINDS):
        state, runs = tmp_path / kind / "state", tmp_path / kind / "runs"
        runs.mkdir(parents=True)
        # The second caller dies at the same step, be it while it recovers what the first left.
        for caller_number in range(2):
            caller = await call(state, rootfs, runs, oci_runtime, f"f{caller_number}", number + 1, fault=point)
            await caller.communicate()
            assert caller.returncode == -signal.SIGKILL, f"{point} was never reached"
        for found, count in (await check_all(state, runs, oci_runtime)).items():
            counts[found] = counts.get(found, 0) + count
    assert sum(counts.values()) >= len(KINDS), counts


CANCELLER = """
import asyncio, sys
from dms_executor import Executor, Policy
async def main():
    async with Executor.open(sys.argv[1], policy=Policy.trusted()) as executor:
        await getattr(executor, sys.argv[2])("job")
asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["intent_committed", "stop_in_hand"])
async def test_a_cancel_whose_caller_is_killed_is_carried_out(
    tmp_path: Path, rootfs: Path, oci_runtime: str, point: str
) -> None:
    state, runs = tmp_path / "state", tmp_path / "runs"
    runs.mkdir()
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["sleep", "1000"]).build()
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        await executor.start(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CANCELLER, str(state), "cancel", env={**os.environ, "DMS_EXECUTOR_FAULT": point}
    )
    assert await process.wait() == -signal.SIGKILL
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        result = await asyncio.wait_for(executor.wait("job"), 30)
    assert (result.status, result.reason, result.exit_code) == (ExecutionStatus.CANCELLED, "cancelled", 143)


@pytest.mark.parametrize("point", ["removing_committed", "folder_removed"])
async def test_a_removal_whose_caller_is_killed_is_finished(
    tmp_path: Path, rootfs: Path, oci_runtime: str, point: str
) -> None:
    state = tmp_path / "state"
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["true"]).build()
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        await executor.run(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CANCELLER, str(state), "remove", env={**os.environ, "DMS_EXECUTOR_FAULT": point}
    )
    assert await process.wait() == -signal.SIGKILL
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        assert await executor.list() == []
        assert await asyncio.to_thread(os.listdir, state / "executions") == []
        await executor.run(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
