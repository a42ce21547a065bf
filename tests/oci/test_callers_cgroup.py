"""A service manager kills the whole cgroup of its service: the jobs that the service started run on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor.cgroups import Cgroups, detect

from .conftest import Bench

CALLER = """
import asyncio, pathlib, sys
from dms_executor.engine import EngineContext, Execution
from dms_executor.oci import OciSpec
from dms_executor.oci.engine import OciEngine
from dms_executor.policy import Policy
from dms_executor.types import ExecutionRequest

state, root, runtime, token = sys.argv[1:]

async def main():
    context = EngineContext(
        state_dir=pathlib.Path(state), executor_id="e", settings={"runtime": runtime}, policy=Policy.trusted())
    async with OciEngine.open(context) as engine:
        spec = OciSpec(image="rootfs:" + root, cmd=["sleep", "60"]).build()
        request = ExecutionRequest(job_id="j", execution_id=token, engine_spec=spec)
        folder = pathlib.Path(state, "executions", token)
        folder.mkdir(parents=True)
        x = Execution(id=token, token=token, executor_id="e", folder=folder, request=request)
        handle = await engine.create(x, await engine.prepare(x, print))
        await engine.start(x, handle)
        print("started", flush=True)
        await engine.watch(x, handle)

asyncio.run(main())
"""


@pytest.fixture
def service() -> Iterator[tuple[Cgroups, str]]:
    """A cgroup of a service's own in every hierarchy."""
    cgroups, name = detect(), f"dms-test-{os.getpid()}"
    for folder in cgroups.folders(name):
        Path(folder).mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            # Version 1 wants them filled, version 2 inherits: its root has no such file.
            if (Path(folder).parent / file).exists():
                (Path(folder) / file).write_text((Path(folder).parent / file).read_text())
    yield cgroups, name
    for pid in cgroups.processes(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for _ in range(200):  # a cgroup tells nobody that it got empty (version 1)
        if not cgroups.processes(name):
            break
        time.sleep(0.01)
    assert cgroups.remove(name) == []


def _settled(cgroups: Cgroups, name: str) -> set[int]:
    """Its processes, once a shim that is being born has no helpers there: it forks twice, and sends a child."""
    for _ in range(1000):
        there = cgroups.processes(name)
        if len(there) <= 2:
            break
        time.sleep(0.01)
    return there


async def test_jobs_outlive_their_callers_cgroup(bench: Bench, runtime: str, service: tuple[Cgroups, str]) -> None:
    cgroups, name = service
    x = bench.execution("sleep", "60")
    x.folder.rmdir()

    def join() -> None:
        for folder in cgroups.folders(name):
            Path(folder, "cgroup.procs").write_text(str(os.getpid()))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", CALLER, str(bench.state), str(bench.busybox), runtime, x.token],
            stdout=subprocess.PIPE,
            preexec_fn=join,
        )

    caller = await asyncio.to_thread(start)
    assert caller.stdout is not None
    assert await asyncio.to_thread(caller.stdout.readline) == b"started\n"
    there = await asyncio.to_thread(_settled, cgroups, name)
    # Beside the caller only the shim that it keeps ready for its next job, which goes with it.
    assert caller.pid in there
    assert len(there) <= 2
    for pid in there:
        with contextlib.suppress(ProcessLookupError):  # the spare may be gone with its caller already
            os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(caller.wait)
    caller.stdout.close()
    assert (await bench.engine.survey())[x.token].phase == "running"
    await bench.engine.destroy(x, None)
    assert bench.left(x) == []
