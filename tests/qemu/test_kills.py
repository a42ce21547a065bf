"""Kill -9 of whoever keeps a VM: the result is true, and no process, socket, disk or control group is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import Executor
from tests import qemus
from tests.qemu.jobs import job

pytestmark = [qemus.needed, pytest.mark.timeout(300)]

_DEADLINE = 60.0
_CALLER = """
import asyncio, sys
from pathlib import Path
from dms_executor import Executor
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus
from tests.qemu.jobs import job

async def main(state, rootfs):
    policy = Policy(read_roots=(rootfs,), missing_defaults="record")
    settings = Settings(engines={"qemu": qemus.settings()})
    async with Executor.open(state, policy=policy, settings=settings) as executor:
        await executor.start(job(rootfs, "orphan", "sh", "-c", "sleep 3; echo out; exit 7"))
        print("started", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main(*map(Path, sys.argv[1:])))
"""


def _child(pid: int) -> int:
    """Its only one: the shim has dms-vm, and that the monitor."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextlib.contextmanager
def _all_gone(state: Path, *pids: int) -> Iterator[None]:
    """These processes have ended after the block, and nothing of any execution is left."""
    opened = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for pid, fd in zip(pids, opened, strict=True):
            assert select.select([fd], [], [], _DEADLINE)[0], f"{pid} lives on"
    finally:
        for fd in opened:
            os.close(fd)
    for execution in (state / "executions").iterdir():
        left = {path.name for path in execution.iterdir()} & {"vm", "control", "exec", "going", "pid"}
        assert not left, f"{execution.name} has {left}"
        mount, name = Path("/sys/fs/cgroup"), f"dms-executor/{execution.name}"
        groups = [*mount.glob(name), *mount.glob(f"*/{name}")]
        assert not groups, groups


@pytest.mark.parametrize("killed", ["shim", "keeper", "monitor"])
async def test_a_vm_that_is_lost_is_no_result_and_leaves_nothing(
    executor: Executor, rootfs: Path, state: Path, killed: str
) -> None:
    await executor.start(job(rootfs, killed, "sleep", "1000"))
    shim = int((await executor.inspect(killed)).engine_ids["shim"])
    keeper = _child(shim)
    pids = {"shim": shim, "keeper": keeper, "monitor": _child(keeper)}
    with _all_gone(state, *pids.values()):
        os.kill(pids[killed], signal.SIGKILL)
        result = await asyncio.wait_for(executor.wait(killed), _DEADLINE)
        assert (result.status, result.reason, result.exit_code) == ("failed", "engine_lost", None), result
        await executor.cleanup()


async def test_a_killed_caller_s_job_ends_as_it_would_have(executor: Executor, rootfs: Path, state: Path) -> None:
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CALLER, str(state), str(rootfs), stdout=asyncio.subprocess.PIPE
    )
    assert caller.stdout is not None
    assert await asyncio.wait_for(caller.stdout.readline(), 2 * _DEADLINE) == b"started\n"
    shim = int((await executor.inspect("orphan")).engine_ids["shim"])
    with _all_gone(state, shim, _child(shim)):
        caller.kill()
        await caller.wait()
        await executor.recover()
        result = await asyncio.wait_for(executor.wait("orphan"), _DEADLINE)
        assert (result.status, result.exit_code, result.stdout) == ("failed", 7, b"out\n"), result
        await executor.cleanup()
