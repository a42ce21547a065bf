"""Two processes on one state folder; and the service around the caller is killed whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, Policy
from dms_executor.oci import OciSpec

from .caller import settings
from .leftovers import processes
from .test_kill import call, check_all

pytestmark = pytest.mark.timeout(900)
# What a look says whose survey takes longer than recovery waits for it, on a machine that is slow or busy.
_LATE = re.compile(rb"dms-executor: WARNING: survey of oci: [^\n]+; its executions stay as they are\n")
STARTS = int(os.environ.get("DMS_EXECUTOR_STARTS", "40"))


async def test_a_process_that_lists_all_the_time_disturbs_nothing(
    tmp_path: Path, rootfs: Path, oci_runtime: str
) -> None:
    state, runs = tmp_path / "state", tmp_path / "runs"
    runs.mkdir()
    caller = await call(state, rootfs, runs, oci_runtime, "s", STARTS)
    # asyncio's debug mode complains of slow callbacks on a busy machine, on the stream that must be empty.
    environment = {**os.environ, "PYTHONASYNCIODEBUG": ""}
    looks = seen = 0
    while caller.returncode is None or looks < STARTS:
        ps = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dms_executor.cli", "--state-dir", str(state), "ps", "-aq"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        out, err = await ps.communicate()
        assert (ps.returncode, _LATE.sub(b"", err)) == (0, b""), err.decode()
        lines = out.split()
        assert len(lines) >= seen, "an execution vanished from the list"
        looks, seen = looks + 1, len(lines)
        if looks >= STARTS and caller.returncode is None:
            await caller.wait()
    assert caller.returncode == 0
    counts = await check_all(state, runs, oci_runtime)
    assert counts == {"true end": STARTS}, counts
    print(f"{looks} looks during {STARTS} starts: {counts}")


@pytest.fixture
def service_cgroups() -> Iterator[list[Path]]:
    """A control group in each hierarchy, as a service manager gives one to a service."""
    roots = [Path("/sys/fs/cgroup")]
    if not (roots[0] / "cgroup.controllers").exists():
        roots = [path for path in roots[0].iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]
    made = []
    for root in roots:
        group = root / f"dms-test-service-{os.getpid()}"
        group.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            # Version 1 wants them filled, version 2 inherits: its root has no such file.
            if (root / name).exists():
                (group / name).write_text((root / name).read_text())
        made.append(group)
    yield made
    for group in made:
        while (group / "cgroup.procs").read_text():  # killed, and not gone yet: bounded by the test's time
            time.sleep(0.01)
        group.rmdir()


def kill_all(groups: list[Path]) -> set[int]:
    """SIGKILL to every process of the groups, as systemd does by default when it stops a service."""
    pids = {int(pid) for group in groups for pid in (group / "cgroup.procs").read_text().split()}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # what a runtime leaves behind ends by itself
            os.kill(pid, signal.SIGKILL)
    return pids


CALLER = """
import asyncio, os, sys
for group in sys.argv[4:]:
    open(group + "/cgroup.procs", "w").write("0")
from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.oci import OciSpec
from tests.recovery.caller import settings
async def main():
    async with Executor.open(sys.argv[1], policy=Policy.trusted(), settings=settings(sys.argv[3])) as executor:
        spec = OciSpec(image="rootfs:" + sys.argv[2], cmd=["sh", "-c", "echo begin; sleep 1; echo end; exit 5"]).build()
        await executor.start(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
        print("started", flush=True)
        await executor.wait("job")
asyncio.run(main())
"""


async def test_killing_the_whole_service_leaves_its_jobs_running(
    tmp_path: Path, rootfs: Path, oci_runtime: str, service_cgroups: list[Path]
) -> None:
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLER, str(tmp_path / "state"), str(rootfs), oci_runtime),
        *map(str, service_cgroups),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    if caller.stdout is None:
        raise RuntimeError("no pipe")
    assert await caller.stdout.readline() == b"started\n"
    killed = await asyncio.to_thread(kill_all, service_cgroups)
    # Beside the caller only the shim that it keeps ready for its next job.
    assert caller.pid in killed
    assert len(killed) <= 2, "a process of the job was still in its caller's control group"
    await caller.wait()
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        assert await executor.get_status("job") is ExecutionStatus.RUNNING
        result = await asyncio.wait_for(executor.wait("job"), 30)
    assert (result.exit_code, result.stdout) == (5, b"begin\nend\n")


STARTER = """
import asyncio, sys
from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.oci import OciSpec
from tests.recovery.caller import settings
async def main():
    async with Executor.open(sys.argv[1], policy=Policy.trusted(), settings=settings(sys.argv[3])) as executor:
        spec = OciSpec(image="rootfs:" + sys.argv[2], cmd=["sleep", "1000"]).build()
        await executor.start(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
asyncio.run(main())
"""


async def test_a_go_that_nobody_saw_the_end_of_is_told_from_one_that_was_never_sent(
    tmp_path: Path, rootfs: Path, oci_runtime: str
) -> None:
    state = tmp_path / "state"
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(state), str(rootfs), oci_runtime),
        env={**os.environ, "DMS_EXECUTOR_FAULT": "started"},
        cwd=Path(__file__).parents[2],
    )
    assert await caller.wait() == -signal.SIGKILL
    for process in await asyncio.to_thread(processes, state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.partition(":")[0]), signal.SIGKILL)
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        result = await asyncio.wait_for(executor.wait("job"), 30)
    assert result.reason == "engine_lost", "its job was let go, and may have run"


async def test_a_job_whose_shim_is_killed_is_lost_and_gone(tmp_path: Path, rootfs: Path, oci_runtime: str) -> None:
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings(oci_runtime)) as executor:
        spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["sleep", "1000"]).build()
        await executor.start(ExecutionRequest(job_id="j", execution_id="job", engine_spec=spec))
        shim = int((await executor.inspect("job")).engine_ids["shim"])
        os.kill(shim, signal.SIGKILL)
        result = await asyncio.wait_for(executor.wait("job"), 10)
    assert (result.status, result.reason, result.exit_code) == (ExecutionStatus.FAILED, "engine_lost", None)
    assert result.error_msg
