"""The child that takes the shim out of its caller's control groups, when it is slow or fails.

A full FIFO stands for a `cgroup.procs` file: a move waits until it is drained.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import create

from .conftest import Words

Job = Callable[..., ShimSpec]


class Gate:
    """A move between control groups that takes until `open`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while os.write(self.fd, bytes(4096)):
                pass

    def open(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 1 << 20):
                pass


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "cgroup.procs")
    yield made
    os.close(made.fd)


def launcher(script: str, gate: Gate, *, report: bool = False) -> ShimSpec:
    """A runtime of the test's own."""
    return ShimSpec(
        argv=["/bin/sh", "-c", script],
        environment={"PATH": "/usr/bin:/bin"},
        report=report,
        pidfile="" if report else "pid",
        cgroup_join=[gate.path],
        log_cap=1 << 30,
        segment=64 << 20,
    )


async def test_a_start_is_told_once_the_move_is_done(folder: Path, job: Job, gate: Gate, words: Words) -> None:
    shim = await create(folder, job("sh", "-c", f"echo up > {words}; sleep 60", cgroup_join=[gate.path]))
    going = asyncio.create_task(shim.go())
    assert await words.come() == "up"
    assert not going.done()
    gate.open()
    async with asyncio.timeout(10):
        await going
        await shim.stop(signal.SIGKILL, 0)
        assert await shim.ended()


async def test_a_job_that_is_reaped_before_its_runtime_has_its_own_end(folder: Path, gate: Gate) -> None:
    orphan = f'sh -c \'sh -c "exit 7" & echo $! > "{folder}/pid"\'; sleep 0.3; exit 0'
    shim = await create(folder, launcher(orphan, gate))
    async with asyncio.timeout(10):
        await shim.go()
        assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.code, end.error) == (7, "")


async def test_a_runtime_that_fails_after_the_start_does_not_undo_it(
    folder: Path, init: str, gate: Gate, words: Words
) -> None:
    os.mkfifo(f"{words}.runtime")
    job = f'unshare --pid --fork "{init}" -- sh -c "read x < {words}; exit 5"'
    script = f"{job} & read x < {words}.runtime; exit 1"
    shim = await create(folder, launcher(script, gate, report=True))
    going = asyncio.create_task(shim.go())
    writer = await asyncio.to_thread(os.open, words.path, os.O_WRONLY)  # the job reads: it has started
    await asyncio.sleep(0.3)  # the init says so a moment later, and the shim keeps it to itself
    await asyncio.to_thread(Path(f"{words}.runtime").write_text, "x\n")
    await asyncio.sleep(0.2)  # the runtime's end tells nobody
    gate.open()
    async with asyncio.timeout(10):
        await going
        os.write(writer, b"x\n")
        os.close(writer)
        assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.code, end.error) == (5, "")


async def test_a_pid_file_of_a_stranger_is_found_wrong_after_the_move(folder: Path, gate: Gate) -> None:
    shim = await create(folder, launcher(f'echo 1000000000 > "{folder}/pid"', gate))
    going = asyncio.create_task(shim.go())
    await asyncio.sleep(0.3)  # the runtime's end tells nobody
    gate.open()
    with pytest.raises(StartFailed, match="does not name a process of this job"):
        await asyncio.wait_for(going, 10)
    assert await shim.ended()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
async def test_a_stop_while_the_move_is_pending_ends_the_job(
    folder: Path, job: Job, gate: Gate, words: Words, signum: int
) -> None:
    # The init says "started" a moment after the job's first instruction, and the shim keeps it to itself.
    script = f"sleep 1; echo up > {words}; exec sleep 60"
    shim = await create(folder, job("sh", "-c", script, cgroup_join=[gate.path]))
    going = asyncio.create_task(shim.go())
    assert await words.come() == "up"
    async with asyncio.timeout(10):
        await shim.stop(signum, 5)
        await going
        assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.signal, end.stopped_by, end.error) == (signum, "stop", "")


async def test_an_init_that_is_killed_while_the_move_is_pending(
    folder: Path, job: Job, gate: Gate, words: Words
) -> None:
    # The init says "started" a moment after the job's first instruction, and the shim keeps it to itself.
    script = f"sleep 1; echo $PPID > {words}; exec sleep 60"
    shim = await create(folder, job("sh", "-c", script, cgroup_join=[gate.path]))
    going = asyncio.create_task(shim.go())
    os.kill(int(await words.come()), signal.SIGKILL)
    async with asyncio.timeout(10):
        await going
        assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.code, end.signal, end.error) == (137, signal.SIGKILL, "")


async def test_a_move_that_fails_is_told(folder: Path, job: Job) -> None:
    with pytest.raises(StartFailed):
        shim = await create(folder, job("sleep", "60", cgroup_join=["/dev/full"]))
        await asyncio.wait_for(shim.go(), 10)
    async with asyncio.timeout(10):
        while "control groups" not in await asyncio.to_thread(_complaints, folder):
            await asyncio.sleep(0.01)


def _complaints(folder: Path) -> str:
    try:
        return (folder / "shim.log").read_text()
    except FileNotFoundError:
        return ""


async def test_a_move_that_is_done_before_the_go_changes_nothing(folder: Path, job: Job, gate: Gate) -> None:
    gate.open()
    shim = await create(folder, job("sh", "-c", "exit 4", cgroup_join=[gate.path]))
    await asyncio.sleep(0.2)  # the move tells nobody
    async with asyncio.timeout(10):
        await shim.go()
        assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.code, end.error) == (4, "")
