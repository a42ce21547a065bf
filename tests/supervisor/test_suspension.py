"""A job that is saved to disk, as the shim sees it: the init here only speaks as one that can do it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import ExecutionNotRunning, NotSupported, ResourcesUnavailable, SnapshotFailed, StartFailed
from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.attachment import attach
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import connect, create
from dms_executor.supervisor.survey import survey
from dms_executor.supervisor.suspended import LOCK, RECORD, Suspensions, read_suspended
from tests.saves import until_suspending

from .conftest import Log, gone

ReadLog = Callable[[Path], Log]

_INIT = """
import os, signal, socket, struct, sys, time
report = socket.socket(fileno=3)
def put(kind, payload=b""):
    report.sendall(struct.pack("<IBBH", len(payload), kind, 0, 0) + payload)
def heard():
    header = report.recv(8, socket.MSG_WAITALL)
    if len(header) < 8:
        os._exit(1)
    length, kind, _, _ = struct.unpack("<IBBH", header)
    return kind, report.recv(length, socket.MSG_WAITALL) if length else b""
def say(text, stream=1):
    os.write(stream, text.encode())
STARTED, FAILED, EXITED, BORN, GO, SIGNAL, SUSPEND, SUSPENDED, AWAKE = 96, 97, 98, 99, 105, 112, 115, 116, 117
put(BORN)
"""
_FIRST = """
put(STARTED, struct.pack("<Q", time.time_ns()))
say("before\\n")
say("apart\\n", 2)
while True:
    kind, _ = heard()
    if kind == SUSPEND:
        say("last\\n")
        put(SUSPENDED)
        os._exit(0)
    put(EXITED, struct.pack("<I", 9))
    os._exit(0)
"""
_SECOND = """
put(STARTED, struct.pack("<Q", time.time_ns()))
assert heard()[0] == GO
say("after\\n")
put(EXITED, struct.pack("<I", 7 << 8))
os._exit(0)
"""


def spec(script: str, **fields: Any) -> ShimSpec:
    fields = {"suspends": True, "log_cap": 1 << 20, "segment": 1 << 16, "drain": 0.5, **fields}
    return ShimSpec(argv=[sys.executable, "-c", _INIT + textwrap.dedent(script)], environment={}, **fields)


async def saved(folder: Path, script: str = _FIRST, **fields: Any) -> int:
    """The pid of the shim that is gone."""
    shim = await create(folder, spec(script, **fields))
    await shim.go()
    await shim.suspend()
    assert not await shim.ended()
    assert await asyncio.to_thread(gone, shim.pid)
    return shim.pid


async def resumed(folder: Path, script: str = _SECOND, **fields: Any) -> ShimSpec:
    record = await asyncio.to_thread(read_suspended, folder)
    assert record is not None
    return spec(script, resumed=record.started_at, forget=["suspended", "vm/memory"], **fields)


async def test_it_goes_on_in_the_same_log_as_the_same_execution(folder: Path, read_log: ReadLog) -> None:
    (folder / "vm").mkdir()
    (folder / "vm" / "memory").touch()
    await saved(folder)
    record = await asyncio.to_thread(read_suspended, folder)
    assert record is not None
    assert await asyncio.to_thread(read_exit, folder) is None
    assert {path.name for path in folder.iterdir()} == {"going", "log", "suspended", "vm"}
    assert not read_log(folder).whole
    assert (folder / "suspended").stat().st_mode & 0o777 == 0o600
    assert (await survey(folder.parent, "vm", lambda _: False))[folder.name].phase == "suspended"
    shim = await create(folder, await resumed(folder))
    assert (await survey(folder.parent, "vm", lambda _: False))[folder.name].phase == "suspended"
    await shim.go()
    assert not (folder / RECORD).exists()
    assert not (folder / "vm" / "memory").exists()
    assert await shim.ended()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert end.code == 7
    assert end.started_at is not None
    assert int(end.started_at.timestamp() * 1e6) == record.started_at // 1000
    log = read_log(folder)
    assert log.whole
    assert (log.data(1), log.data(2)) == (b"before\nlast\nafter\n", b"apart\n")
    assert [(each.number, each.stdout_before, each.stderr_before) for each in log.segments] == [(1, 0, 0), (2, 12, 6)]


async def test_what_cannot_go_on_is_saved_as_before(folder: Path, read_log: ReadLog) -> None:
    await saved(folder)
    before = (folder / "suspended").read_bytes()
    shim = await create(folder, await resumed(folder))
    shim.close()  # its caller dies before the go
    assert await asyncio.to_thread(gone, shim.pid)
    for script in ('put(FAILED, struct.pack("<I", 0) + b"no such memory"); time.sleep(60)', "os._exit(3)"):
        shim = await create(folder, await resumed(folder, script))
        with pytest.raises(StartFailed):
            await shim.go()
        assert await asyncio.to_thread(gone, shim.pid)
        shim.close()
    shim = await create(folder, await resumed(folder, "time.sleep(60)"))
    going = asyncio.create_task(shim.go())
    await asyncio.sleep(0)
    os.kill(shim.pid, signal.SIGKILL)
    with pytest.raises(StartFailed):
        await going
    assert (folder / "suspended").read_bytes() == before
    assert await asyncio.to_thread(read_exit, folder) is None
    assert (await asyncio.to_thread(_phase, folder)) == "suspended"
    shim = await create(folder, await resumed(folder))
    await shim.go()
    assert await shim.ended()
    assert read_log(folder).data(1) == b"before\nlast\nafter\n"


def _phase(folder: Path) -> str | None:
    (folder / "vm").mkdir(exist_ok=True)
    found = asyncio.run(survey(folder.parent, "vm", lambda _: False)).get(folder.name)
    return found.phase if found is not None else None


async def test_a_caller_that_dies_meanwhile_changes_nothing(folder: Path) -> None:
    script = _FIRST.replace(
        "        say(", "        open('asked', 'w').close()\n        while not os.path.exists('go'): pass\n        say("
    )
    script = f"os.chdir({str(folder)!r})\n{script}"
    shim = await create(folder, spec(script))
    await shim.go()
    asking = asyncio.create_task(shim.suspend())
    async with asyncio.timeout(30):
        while not (folder / "asked").exists():
            await asyncio.sleep(0.01)
    other = await connect(folder)
    assert other is not None
    with pytest.raises(ExecutionNotRunning, match="being suspended"):
        await other.signal(10)
    third = await connect(folder)
    assert third is not None
    assert third.phase == "suspending"
    (folder / "vm").mkdir()
    assert (await survey(folder.parent, "vm", lambda _: False))[folder.name].phase == "suspending"
    joining = asyncio.create_task(third.suspend())  # and is answered as who asked first
    shim.close()
    with pytest.raises(ExecutionNotRunning):
        await asking
    (folder / "go").touch()
    await joining
    assert not await other.ended()
    assert (folder / RECORD).exists()


async def test_a_stop_that_comes_meanwhile_ends_it(folder: Path, read_log: ReadLog) -> None:
    script = _FIRST.replace("        say(", "        while heard()[0] != SIGNAL: pass\n        say(")
    shim = await create(folder, spec(script))
    await shim.go()
    other = await connect(folder)
    assert other is not None
    asking = asyncio.create_task(other.suspend())
    await until_suspending(folder)
    await shim.stop(signal.SIGTERM, 60)
    assert await shim.ended()
    with pytest.raises(ExecutionNotRunning):
        await asking
    assert read_log(folder).data(1) == b"before\nlast\n", "it was saved before the stop came"
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.stopped_by, end.signal) == ("stop", 9), end
    assert end.lost is not None
    assert "saved to disk" in end.lost
    assert not (folder / RECORD).exists()


async def test_a_stop_in_the_last_moment_ends_it_too(folder: Path) -> None:
    """It has said that it is saved, and its shim waits for the end of a stream before it records that."""
    shim = await create(folder, spec(_FIRST, drain=600.0))
    await shim.go()
    other = await connect(folder)
    assert other is not None
    children = Path(f"/proc/{shim.pid}/task/{shim.pid}/children")
    (init,) = (await asyncio.to_thread(children.read_text)).split()
    stream = os.open(f"/proc/{init}/fd/1", os.O_WRONLY)
    try:
        asking = asyncio.create_task(other.suspend())
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(children.read_text)).split():
                await asyncio.sleep(0.01)
        await shim.stop(signal.SIGTERM, 60)
    finally:
        os.close(stream)
    assert await shim.ended()
    with pytest.raises(ExecutionNotRunning):
        await asking
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.stopped_by, end.signal) == ("stop", 9), end
    assert end.lost is not None
    assert not (folder / RECORD).exists()


async def test_an_init_that_cannot_says_why_and_goes_on(folder: Path) -> None:
    script = _FIRST.replace(
        "        put(SUSPENDED)\n        os._exit(0)",
        '        put(AWAKE, struct.pack("<I", int(open("errno").read())) + b"why"); continue',
    )
    script = f"os.chdir({str(folder)!r})\n{script}"
    shim = await create(folder, spec(script))
    await shim.go()
    for number, error in {
        errno.EIO: SnapshotFailed,
        errno.ETIMEDOUT: SnapshotFailed,
        errno.ENOSPC: ResourcesUnavailable,
        errno.ECANCELED: ExecutionNotRunning,
    }.items():
        (folder / "errno").write_text(str(number))
        with pytest.raises(error, match=f"why: {os.strerror(number)}"):
            await shim.suspend()
        again = await connect(folder)
        assert again is not None
        assert again.phase == "running"
    await shim.signal(10)
    assert await shim.ended()
    assert not (folder / RECORD).exists()


async def test_who_is_attached_keeps_it_from_it(folder: Path) -> None:
    shim = await create(folder, spec(_FIRST, input="pipe"))
    await shim.go()
    attached = await attach(folder)
    with pytest.raises(NotSupported, match="attached") as caught:
        await shim.suspend()
    assert caught.value.mend
    await attached.aclose()
    async with asyncio.timeout(30):
        while True:
            try:
                await shim.suspend()
                break
            except NotSupported:
                await asyncio.sleep(0.01)
    assert not await shim.ended()
    assert (folder / RECORD).exists()


async def test_an_ordinary_job_cannot_be_saved(folder: Path) -> None:
    shim = await create(folder, spec(_FIRST, suspends=False))
    await shim.go()
    with pytest.raises(NotSupported, match="cannot be suspended"):
        await shim.suspend()
    await shim.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_its_timeout_ends_one_that_is_saved_as_of_then(folder: Path) -> None:
    await saved(folder)
    record = await asyncio.to_thread(read_suspended, folder)
    assert record is not None
    suspensions = Suspensions()
    try:
        left = (time.time_ns() - record.started_at) / 1e9 + 0.2
        async with asyncio.timeout(30):
            await suspensions.over(folder, left)
    finally:
        suspensions.close()
    end = await asyncio.to_thread(read_exit, folder)
    assert end is not None
    assert (end.stopped_by, end.signal) == ("deadline", 9)
    assert end.started_at is not None
    assert abs((end.finished_at - end.started_at).total_seconds() - left) < 0.001
    assert not (folder / RECORD).exists()


async def test_who_waits_is_woken_when_it_goes_on_and_one_at_a_time_changes_it(folder: Path) -> None:
    await saved(folder)
    suspensions = Suspensions()
    try:
        waiting = asyncio.create_task(suspensions.over(folder, None))
        async with suspensions.alone(folder) as record:
            assert record is not None
            second = asyncio.create_task(_alone(suspensions, folder))
            done, _ = await asyncio.wait([second], timeout=0.1)
            assert not done
            shim = await create(folder, await resumed(folder))
            await shim.go()
            await shim.ended()
        async with asyncio.timeout(30):
            assert await second is None
            await waiting
    finally:
        suspensions.close()
    assert (folder / LOCK).exists()


async def _alone(suspensions: Suspensions, folder: Path) -> object:
    async with suspensions.alone(folder) as record:
        return record


async def test_a_log_of_many_segments_and_gaps_is_counted_right(folder: Path, read_log: ReadLog) -> None:
    many = _FIRST.replace('say("before\\n")', 'for n in range(400): say("%099d\\n" % n)')
    await saved(folder, many, segment=4096, log_cap=16384)
    shim = await create(folder, await resumed(folder, segment=4096, log_cap=16384))
    await shim.go()
    assert await shim.ended()
    log = read_log(folder)
    assert log.segments[-1].stdout_before == 40005
    assert log.data(1).endswith(b"last\nafter\n")
    assert sum(path.stat().st_size for path in (folder / "log").iterdir()) <= 16384 + 4096
