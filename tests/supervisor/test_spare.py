"""A shim that is spawned ahead of its execution."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import Spare, create, spare

Job = Callable[..., ShimSpec]


async def test_a_job_runs_under_a_spare(folder: Path, job: Job) -> None:
    home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    ahead = await spare()
    shim = await create(folder, job("sh", "-c", "exit 3", folder=home), ahead)
    os.close(home)
    await shim.go()
    assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert end.code == 3
    assert ahead.take() is None, "a spare serves once"


def shims() -> set[int]:
    """All processes of the name dms-shim."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "dms-shim\n":
                found.add(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def waits(pid: int, first: int) -> bool:
    """Whether a process has left `first`, whose session it is of, and has no child: a shim at work has one."""
    try:
        _, parent, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        return (
            parent != str(os.getpid())
            and session == str(first)
            and not Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


async def spare_and_pid() -> tuple[Spare, int]:
    """A spare, and the process that it is once it has left its parent."""
    before = shims()
    ahead = await spare()
    async with asyncio.timeout(20):
        while len(new := {pid for pid in shims() - before - {ahead.pid} if waits(pid, ahead.pid)}) != 1:
            await asyncio.sleep(0.005)  # the second fork tells nobody
    return ahead, new.pop()


async def gone(pid: int) -> bool:
    """Whether a process ends within five seconds."""
    handle = os.pidfd_open(pid)
    try:
        return bool((await asyncio.to_thread(select.select, [handle], [], [], 5))[0])
    finally:
        os.close(handle)


async def test_a_spare_that_died_is_replaced(folder: Path, job: Job) -> None:
    home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    ahead, pid = await spare_and_pid()
    ending = asyncio.create_task(gone(pid))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert await ending
    shim = await create(folder, job("true", folder=home), ahead)
    os.close(home)
    assert shim.pid != pid
    await shim.go()
    assert await shim.ended()


async def test_a_spare_ends_with_its_connection() -> None:
    ahead, pid = await spare_and_pid()
    ending = asyncio.create_task(gone(pid))
    await asyncio.sleep(0)
    ahead.close()
    assert await ending


class Doomed(Spare):
    """A spare that is killed just when it has been taken."""

    victim = 0

    def take(self) -> socket.socket | None:
        connection = super().take()
        os.kill(self.victim, signal.SIGKILL)
        return connection


async def test_a_spare_killed_between_its_taking_and_its_orders_costs_no_job(folder: Path, job: Job) -> None:
    plain, victim = await spare_and_pid()
    ahead = Doomed(plain.take() or pytest.fail("no spare"), plain.pid)
    ahead.victim = victim
    home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    shim = await create(folder, job("sh", "-c", "exit 4", folder=home), ahead)
    os.close(home)
    await shim.go()
    assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert end.code == 4
