"""Following a log that is being written: by another process, slowly, beyond the cap, before it is there."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import ExecutorClosed, ResultExpired, StartFailed
from dms_executor.logs import Gap, LogEntry, LogReader, LogStream, LogWriter, Watcher, check_log, drop_log, inotify

from .log_model import request, write

WRITER = """
import sys
from pathlib import Path
from dms_executor.logs import LogWriter
folder, count, size, cap = Path(sys.argv[1]), *map(int, sys.argv[2:])
with LogWriter.open(folder, cap, cap // 4) as writer:
    for number in range(count):
        writer.write("stdout" if number % 3 else "stderr", number + 1, b"%08d" % number + b"x" * (size - 9) + b"\\n")
    writer.end()
"""


async def _open(folder: Path, watcher: Watcher, finished: asyncio.Event | None = None, **more: Any) -> LogStream:
    failure = more.pop("failure", lambda: None)
    finished = finished or asyncio.Event()
    return await LogStream.open(
        folder, request(follow=True, **more), watcher=watcher, finished=finished, failure=failure
    )


async def _writer(folder: Path, count: int, size: int, cap: int) -> asyncio.subprocess.Process:
    arguments = [str(folder), str(count), str(size), str(cap)]
    return await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, *arguments)


async def test_follower_gets_all_that_another_process_writes(folder: Path, watcher: Watcher) -> None:
    async with await _open(folder, watcher) as stream:
        process = await _writer(folder, 30_000, 100, 1 << 26)
        data = await stream.read()
        assert await process.wait() == 0
    assert [int(line[:8]) for line in data.splitlines()] == list(range(30_000))
    await asyncio.to_thread(check_log, folder)


async def test_slow_follower_meets_gaps_and_loses_nothing_else(folder: Path, watcher: Watcher) -> None:
    count, size = 20_000, 200
    process = await _writer(folder, count, size, 100_000)
    total = 0
    numbers: list[int] = []
    async with await _open(folder, watcher) as stream:
        async for entry in stream.entries():
            total += entry.bytes if isinstance(entry, Gap) else len(entry.data)
            if isinstance(entry, LogEntry):
                numbers.append(int(entry.data[:8]))
            await asyncio.sleep(0)
    assert await process.wait() == 0
    assert total == count * size
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count - 1


def test_segment_unlinked_while_it_is_read_is_still_read(folder: Path) -> None:
    with LogWriter.open(folder, 1024, 256) as writer, LogReader(folder) as reader:
        writer.write("stdout", 1, b"a" * 176)
        assert [bytes(data) for _, _, data in reader.read().entries] == [b"a" * 176]
        writer.write("stderr", 2, b"b" * 176)
        first = reader.read().entries
        for number in range(20):
            writer.write("stdout", 3, bytes([97 + number]) * 176)
        writer.end()
        pieces = []
        while entries := reader.read().entries:
            pieces += entries
    assert bytes(first[0][2]) == b"b" * 176
    kinds = [kind for kind, _, _ in pieces]
    assert kinds[0] == 3
    assert kinds.count(3) == 1
    lost = int.from_bytes(bytes(pieces[0][2][8:]), "little")
    assert lost + sum(len(data) for _, _, data in pieces[1:]) == 20 * 176


async def test_prompt_appears_at_once(folder: Path, watcher: Watcher) -> None:
    async with await _open(folder, watcher) as stream:
        reading = asyncio.create_task(stream.read(100))
        writer = await asyncio.to_thread(LogWriter.open, folder, 1 << 20, 1 << 18)
        await asyncio.to_thread(writer.write, "stdout", 1, b"name? ")
        written = time.monotonic()
        assert await reading == b"name? "
        assert time.monotonic() - written < 0.05
        writer.close()


async def test_follower_waits_for_folders_that_are_made_later(tmp_path: Path, watcher: Watcher) -> None:
    folder = tmp_path / "executions" / "token"
    async with await _open(folder, watcher) as stream:
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        await asyncio.to_thread(folder.mkdir, parents=True)
        await asyncio.to_thread(write, folder, [("stdout", 1, b"late\n")], end=True)
        assert await reading == b"late\n"


async def test_follower_ends_with_the_execution_though_no_end_mark_came(folder: Path, watcher: Watcher) -> None:
    finished = asyncio.Event()
    await asyncio.to_thread(write, folder, [("stdout", 1, b"all there is")])
    async with await _open(folder, watcher, finished) as stream:
        assert await anext(stream) == b"all there is"
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        finished.set()
        assert await reading == b""


@pytest.mark.parametrize("error", [StartFailed("no such command"), ExecutorClosed("closed")])
async def test_failure_is_raised_after_the_data(folder: Path, watcher: Watcher, error: Exception) -> None:
    finished = asyncio.Event()
    await asyncio.to_thread(write, folder, [("stderr", 1, b"so far")])
    async with await _open(folder, watcher, finished, failure=lambda: error) as stream:
        finished.set()
        assert await stream.read() == b"so far"
        for _ in range(2):
            with pytest.raises(type(error)):
                await stream.read()


async def test_pending_execution_that_fails_ends_its_follower(tmp_path: Path, watcher: Watcher) -> None:
    finished = asyncio.Event()
    failure = StartFailed("no such image")
    async with await _open(tmp_path / "missing", watcher, finished, failure=lambda: failure) as stream:
        entries = stream.entries()
        reading = asyncio.ensure_future(anext(entries))
        await asyncio.sleep(0)
        finished.set()
        with pytest.raises(StartFailed):
            await reading


async def test_cancelled_read_loses_nothing(folder: Path, watcher: Watcher) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"x" * 100_000)] * 100, end=True)
    data = b""
    async with await _open(folder, watcher) as stream:
        while True:
            reading = asyncio.create_task(stream.read(1 << 16))
            await asyncio.sleep(0)
            reading.cancel()
            try:
                piece = await reading
            except asyncio.CancelledError:
                piece = await stream.read(1 << 16)
            data += piece
            if not piece:
                break
    assert len(data) == 10_000_000


async def test_timed_out_entry_can_be_asked_for_again(folder: Path, watcher: Watcher) -> None:
    async with await _open(folder, watcher) as stream:
        entries = stream.entries()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(entries), 0.01)
        await asyncio.to_thread(write, folder, [("stdout", 1, b"x")], end=True)
        assert [entry.data async for entry in entries if isinstance(entry, LogEntry)] == [b"x"]


async def test_closing_wakes_who_reads(folder: Path, watcher: Watcher) -> None:
    stream = await _open(folder, watcher)
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    assert await reading == b""


async def test_log_dropped_under_a_follower_is_told(folder: Path, watcher: Watcher) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"x")])
    async with await _open(folder, watcher) as stream:
        assert await stream.read(1) == b"x"
        await asyncio.to_thread(drop_log, folder)
        with pytest.raises(ResultExpired):
            await stream.read()


async def test_many_waiters_share_one_watch(folder: Path, watcher: Watcher) -> None:
    one, other = watcher.watch(folder), watcher.watch(folder)
    assert one.wd == other.wd
    one.close()
    await asyncio.to_thread((folder / "notify").write_bytes, b"1")
    await asyncio.wait_for(other.wait(), 5)
    other.clear()
    await asyncio.to_thread(os.rename, folder / "notify", folder / "notified")
    other.close()
    again = watcher.watch(folder / "notified")
    await asyncio.to_thread((folder / "notified").unlink)
    await asyncio.wait_for(again.wait(), 5)
    assert again.gone


async def test_without_inotify_the_follower_polls_and_warns_once(
    folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def used_up(self: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify._Libc, "open", used_up)
    with caplog.at_level(logging.WARNING, "dms_executor.logs"):
        async with await _open(folder, watcher) as one, await _open(folder, watcher) as other:
            reading = asyncio.gather(one.read(), other.read())
            await asyncio.to_thread(write, folder, [("stdout", 1, b"x")], end=True)
            assert list(await reading) == [b"x", b"x"]
    assert len([record for record in caplog.records if record.name == "dms_executor.logs"]) == 1
