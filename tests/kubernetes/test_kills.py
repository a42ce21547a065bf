"""The calling program is killed at every step, and so is the one that recovers; every job has its true end, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from dms_executor.faults import POINTS

from .conftest import Bench, opened

COLLECTS = ("ended_committed", "collected")
"""Steps of jobs with outputs."""
_STEPS = [step for step in POINTS[: POINTS.index("intent_committed")] if step not in COLLECTS]
_LONG = pytest.mark.skipif(
    not os.environ.get("DMS_EXECUTOR_ALL_LINES"),
    reason="two programs die for each step: with DMS_EXECUTOR_ALL_LINES, as .ci/full has it",
)
ENDED = ["watched", "finished_committed", "destroyed"]
CANCELLED = ["intent_committed", "stop_in_hand", *ENDED]
TIMED_OUT = ["started", "running_committed", *ENDED]
_CALLER = """
import asyncio, sys
from pathlib import Path
import msgspec
from dms_executor.types import StorageVolume
from tests.kubernetes.conftest import opened
from tests.kubernetes.test_kills import COLLECTS
async def main(state, kubeconfig, step, execution_id):
    async with opened(Path(state), kubeconfig, clears=False) as bench:
        script = "echo begin; cat; sleep 0.3; echo end >&2; exit 7"
        outputs = [StorageVolume(source=f"{state}/../out", target="/out")] if step in COLLECTS else []
        request = bench.request("sh", "-c", script, stdin=step.encode(), outputs=outputs)
        await bench.executor.run(msgspec.structs.replace(request, execution_id=execution_id))
        await asyncio.sleep(10)  # for what comes after its result is told
asyncio.run(main(*sys.argv[1:]))
"""
_STOPPER = """
import asyncio, sys
from pathlib import Path
import msgspec
from tests.kubernetes.conftest import opened
from tests.kubernetes.test_breaks import heard
async def main(state, kubeconfig, cause, execution_id):
    async with opened(Path(state), kubeconfig, clears=False) as bench:
        script = "trap 'echo bye; exit 7' TERM; echo begin; while :; do sleep 1000 & wait $!; done"
        request = bench.request("sh", "-c", script, timeout=5.0 if cause == "timed_out" else None)
        await bench.executor.start(msgspec.structs.replace(request, execution_id=execution_id))
        await heard(bench, execution_id, b"begin")
        if cause == "cancelled":
            await bench.executor.cancel(execution_id)
        await bench.executor.wait(execution_id)
        await asyncio.sleep(10)  # for what comes after its result is told
asyncio.run(main(*sys.argv[1:]))
"""


async def killed_at(
    step: str, state: Path, kubeconfig: str, execution_id: str, *, caller: str = _CALLER, how: str = ""
) -> None:
    """A caller that begins a job and dies there, be it while it recovers another. `how`: what it is told beside it."""
    folder = Path(__file__).parents[2]
    environment = {**os.environ, "DMS_EXECUTOR_FAULT": step, "PYTHONPATH": str(folder)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", caller, str(state), kubeconfig, how or step, execution_id, env=environment, cwd=folder
    )
    assert await asyncio.wait_for(process.wait(), 100) == -signal.SIGKILL, f"{step} was never reached"


@_LONG
@pytest.mark.parametrize("step", _STEPS)
async def test_a_caller_killed_between_two_steps(either: Bench, step: str, tmp_path: Path) -> None:
    await _killed_twice(either, step, tmp_path)


@_LONG
@pytest.mark.parametrize("step", COLLECTS)
async def test_a_caller_killed_while_a_cluster_gives_outputs(either: Bench, step: str, tmp_path: Path) -> None:
    await _killed_twice(either, step, tmp_path)


@_LONG
@pytest.mark.parametrize(
    ("cause", "step"), [*(("cancelled", step) for step in CANCELLED), *(("timed_out", step) for step in TIMED_OUT)]
)
async def test_a_caller_killed_while_its_job_is_ended(either: Bench, cause: str, step: str, tmp_path: Path) -> None:
    state = tmp_path / "killed"
    for execution_id in ("first", "second"):
        await killed_at(step, state, either.kubeconfig, execution_id, caller=_STOPPER, how=cause)
    async with opened(state, either.kubeconfig) as bench:
        found = await bench.executor.list()
        assert found
        for info in found:
            result = await asyncio.wait_for(bench.executor.wait(info.request.execution_id), 60)
            assert (result.reason, result.exit_code, result.stdout) == (cause, 7, b"begin\nbye\n"), result
        tokens = [info.engine_ids["pod"] for info in found]
    left = [pod["metadata"]["name"] for pod in (await either.client.call("GET", "pods"))["items"]]
    assert not set(tokens) & set(left)


async def _killed_twice(either: Bench, step: str, tmp_path: Path) -> None:
    state = tmp_path / "killed"
    for execution_id in ("first", "second"):
        await killed_at(step, state, either.kubeconfig, execution_id)
    async with opened(state, either.kubeconfig) as bench:
        found = await bench.executor.list()
        assert found
        for info in found:
            result = await asyncio.wait_for(bench.executor.wait(info.request.execution_id), 60)
            if result.started_at is None:
                assert (result.reason, result.stdout) == ("start_failed", b""), result
            else:
                assert (result.exit_code, result.reason) == (7, "exited"), result
                assert (result.stdout, result.stderr) == (b"begin\n" + step.encode(), b"end\n"), result
        tokens = [info.engine_ids.get("pod", "no pod") for info in found]
    left = [pod["metadata"]["name"] for pod in (await either.client.call("GET", "pods"))["items"]]
    assert not set(tokens) & set(left)
