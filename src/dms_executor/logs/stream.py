"""`LogStream`: an execution's output as an async byte reader, or entry by entry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..errors import ExecutorClosed, ExecutorError
from ..types import LogStreamRequest, Stream
from .changes import FolderChanges
from .entry import Gap, LogEntry
from .excerpt import Excerpt
from .format import GAP, NAMES, STDERR, RawEntry, decode_gap
from .inotify import Wakeups
from .lines import StampedLines
from .segments import log_folder

__all__ = ["LogStream"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_logger = logging.getLogger("dms_executor.logs")


class _Loaded(NamedTuple):
    """What one look at the log gave. `last`: nothing comes after it."""

    entries: list[RawEntry]
    data: bytes
    more: bool
    last: bool


class LogStream:
    """Reads an execution's log as its request says. One reader at a time; get it by `LogStream.open`, `aclose` it.

    Either bytes (`read`, `async for`) or entries (`entries()`). A call that is cancelled or timed out loses nothing:
    the next one goes on. Where the log lost bytes, `entries()` gives a `Gap`; in bytes `gaps` (bytes by stream) grows
    and one warning is logged. A slow reader never slows the job; it may only meet gaps once the cap has taken what it
    had not read.

    With `timestamps`, bytes come as whole lines; `entries()` has its times anyway. At the end of a follow, what
    `failure()` gives is raised after all data was delivered.
    """

    def __init__(
        self,
        excerpt: Excerpt,
        request: LogStreamRequest,
        finished: asyncio.Event,
        failure: Callable[[], ExecutorError | None],
        executor: Executor | None,
        changes: FolderChanges | None,
        final: bool,
    ) -> None:
        self.gaps: dict[Stream, int] = {}
        self._excerpt = excerpt
        self._finished = finished
        self._failure = failure
        self._executor = executor
        self._changes = changes
        self._on_close: Callable[[], None] = lambda: None
        self._final = final
        self._lines = StampedLines() if request.timestamps else None
        self._pending: asyncio.Future[_Loaded] | None = None
        self._buffer: deque[bytes] = deque()
        self._entries: deque[LogEntry | Gap] = deque()
        self._at_end = False
        self._closed = False
        self._watching_end: asyncio.Task[None] | None = None
        if changes is not None:
            self._watching_end = asyncio.create_task(self._wake_at_end(changes), name="log stream's end")

    @classmethod
    async def open(
        cls,
        folder: Path,
        request: LogStreamRequest,
        *,
        watcher: Wakeups,
        finished: asyncio.Event,
        failure: Callable[[], ExecutorError | None] = lambda: None,
        executor: Executor | None = None,
        on_close: Callable[[], None] = lambda: None,
        mid_line: bool = False,
    ) -> LogStream:
        """Opens `folder/log`, which need not be there yet. What `tail`, `last`, seconds in `since` mean is fixed now.

        `watcher` wakes a follower; `finished` is set once the execution is terminal and its log complete, or nobody
        shall wait any longer; `failure` then gives the error to raise, if any. `executor`: the threads that read
        (None: the loop's); `on_close` is called once nobody reads any more; `mid_line`: `tail` begins at once, not with
        the next line. Raises InvalidRequest, StateTooNew.
        """
        final = finished.is_set() and not isinstance(failure(), ExecutorClosed)
        opening = asyncio.get_running_loop().run_in_executor(
            executor, partial(Excerpt.open, folder, request, now=time.time_ns(), final=final, mid_line=mid_line)
        )
        try:
            excerpt = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        changes = FolderChanges(watcher, log_folder(folder)) if request.follow else None
        stream = cls(excerpt, request, finished, failure, executor, changes, final)
        stream._on_close = on_close
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, at least one; b"" at the end. A negative `n`: all until the end, however long."""
        if n == 0:
            return b""
        if n < 0:
            return await self._read_all()
        if not self._buffer and not await self._fill():
            return b""
        data = self._buffer.popleft()
        if len(data) > n:
            self._buffer.appendleft(data[n:])
        return data[:n]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes that are there, at most a little over 1 MiB."""
        if not self._buffer and not await self._fill():
            raise StopAsyncIteration
        return self._buffer.popleft()

    def entries(self) -> AsyncIterator[LogEntry | Gap]:
        """The log's entries in order. Another call goes on where the one before stopped."""
        return _Entries(self._next_entry)

    async def aclose(self) -> None:
        """Ends the stream; a call that waits elsewhere ends, too. Idempotent."""
        self._closed = True
        self._on_close()
        if self._changes is not None:
            self._changes.close()
        if self._watching_end is not None:
            self._watching_end.cancel()
            await asyncio.wait([self._watching_end])
        pending = self._pending  # whoever waits for it may take it away meanwhile
        if pending is not None:
            await asyncio.wait([pending])
            if not pending.cancelled():
                pending.exception()  # whoever waited for it has seen it
        self._excerpt.close()

    async def _read_all(self) -> bytes:
        try:
            while await self._fill():
                pass
        except ExecutorError:
            if not self._buffer:
                raise
        whole = b"".join(self._buffer)
        self._buffer.clear()
        return whole

    async def _fill(self) -> bool:
        """Gets more bytes into the buffer. False: the end."""
        while True:
            loaded = await self._load()
            if loaded is None:
                return False
            self._note_gaps(loaded.entries)
            if loaded.data:
                self._buffer.append(loaded.data)
                return True

    async def _next_entry(self) -> LogEntry | Gap:
        while not self._entries:
            loaded = await self._load(plain=True)
            if loaded is None:
                raise StopAsyncIteration
            self._entries.extend(_public(entry) for entry in loaded.entries)
        return self._entries.popleft()

    async def _load(self, *, plain: bool = False) -> _Loaded | None:
        """What comes next in the log, once there is something; None at the end. Raises the failure after it."""
        while not self._closed:
            if self._at_end:
                self._raise_failure()
                return None
            if self._changes is not None and self._pending is None:
                self._changes.look()
            loaded = await self._in_thread(partial(self._look, self._is_final(), self._is_over(), plain))
            self._at_end = loaded.last
            if loaded.entries or loaded.data:
                return loaded
            if not loaded.more and not loaded.last and self._changes is not None and not self._is_over():
                await self._changes.wait()
        return None

    def _is_over(self) -> bool:
        """Nothing is waited for any more: what is there now is all."""
        return self._changes is None or self._finished.is_set()

    def _is_final(self) -> bool:
        """The writer is gone, so that half an entry is data."""
        if self._changes is None:
            return self._final
        return self._finished.is_set() and not isinstance(self._failure(), ExecutorClosed)

    def _raise_failure(self) -> None:
        error = self._failure() if self._changes is not None and self._finished.is_set() else None
        if error is not None:
            raise error

    def _look(self, final: bool, over: bool, plain: bool) -> _Loaded:
        """In a thread: the next block of the log."""
        entries, more = self._excerpt.read(final=final)
        last = self._excerpt.ended or (over and not more)
        if plain:
            return _Loaded(entries, b"", more, last)
        if self._lines is None:
            data = b"".join([data for kind, _, data in entries if kind <= STDERR])
        else:
            data = self._lines.feed(entries) + (self._lines.flush() if last else b"")
        return _Loaded([entry for entry in entries if entry[0] == GAP], data, more, last)

    async def _in_thread(self, call: Callable[[], _Loaded]) -> _Loaded:
        """Runs `call` in a thread; what a cancelled caller had asked for is the next one's answer."""
        if self._pending is None:
            self._pending = asyncio.get_running_loop().run_in_executor(self._executor, call)
        pending = self._pending
        try:
            loaded = await asyncio.shield(pending)
        except (ExecutorError, OSError):
            self._pending = None
            raise
        self._pending = None
        return loaded

    def _note_gaps(self, gaps: list[RawEntry]) -> None:
        for _, _, data in gaps:
            kind, lost = decode_gap(data)
            if not self.gaps:
                _logger.warning("bytes of %s are missing in the log: %d (see LogStream.gaps)", NAMES[kind], lost)
            self.gaps[NAMES[kind]] = self.gaps.get(NAMES[kind], 0) + lost

    async def _wake_at_end(self, changes: FolderChanges) -> None:
        await self._finished.wait()
        changes.wake()


class _Entries:
    """An iterator whose `__anext__` may be cancelled and called again, as an async generator's may not."""

    def __init__(self, following: Callable[[], Awaitable[LogEntry | Gap]]) -> None:
        self._following = following

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogEntry | Gap:
        return await self._following()


def _public(entry: RawEntry) -> LogEntry | Gap:
    kind, stamp, data = entry
    if kind == GAP:
        stream, lost = decode_gap(data)
        return Gap(NAMES[stream], lost)
    return LogEntry(NAMES[kind], _EPOCH + timedelta(microseconds=stamp // 1000), bytes(data))


def _close_opened(opening: asyncio.Future[Excerpt]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
