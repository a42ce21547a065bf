"""A job in the foreground: its output comes out here as it is written, and the signals that we get cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import stat
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import ExecutionAlreadyFinished, ExecutionNotFinished, ExecutionNotFound, ExecutorError
from ..types import LogStreamRequest
from .codes import of_run
from .entries import copy_entries
from .terminal import ProgressLine, emit_json, report, say

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import ExecutionRequest, ExecutionResult

__all__ = ["Foreground", "Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DRAIN = 2.0
"""Seconds that a reader of ours who has stopped reading holds us up once the job is cancelled and gone."""


class Interrupts:
    """What asks us to stop: SIGINT, SIGTERM, SIGHUP, and SIGPIPE for a reader of our stdout that has gone away."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._handled: list[signal.Signals] = []
        self._watched: int | None = None
        self.first: signal.Signals | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            # Who starts us under nohup wants us to go on.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.put, number)
                self._handled.append(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._handled:
            loop.remove_signal_handler(number)
        self._unwatch()

    def put(self, number: signal.Signals) -> None:
        """One more."""
        self.first = self.first or number
        self._arrived.put_nowait(number)

    async def next(self) -> signal.Signals:
        """The next one."""
        return await self._arrived.get()

    def watch_pipe(self, fd: int) -> None:
        """Tells of a pipe's reader that goes away also while the job writes nothing (poll(2): POLLERR)."""
        written = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        if written and stat.S_ISFIFO(os.fstat(fd).st_mode):
            self._watched = os.dup(fd)
            asyncio.get_running_loop().add_reader(self._watched, self._reader_gone)

    def _reader_gone(self) -> None:
        self._unwatch()
        self.put(signal.SIGPIPE)

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            os.close(self._watched)
            self._watched = None


class Foreground:
    """One execution of `run`."""

    def __init__(
        self,
        executor: Executor,
        request: ExecutionRequest,
        interrupts: Interrupts,
        *,
        progress: ProgressLine,
        as_json: bool,
    ) -> None:
        self._executor = executor
        self._request = request
        self._id = request.execution_id
        self._interrupts = interrupts
        self._progress = progress
        self._json = as_json
        self._starting: asyncio.Task[None] | None = None
        self._copying: asyncio.Task[None] | None = None
        self._cancels: set[asyncio.Task[None]] = set()
        self._began = datetime.now(UTC)

    async def start(self) -> int:
        """Begins it and leaves it running. 0, or what a signal meanwhile makes of it."""
        async with self._obeying():
            return await self._start()

    async def run(self, *, remove: bool) -> int:
        """From its start to its end. The exit code."""
        self._interrupts.watch_pipe(1)
        async with self._obeying():
            try:
                code = await self._start()
                return code if code else await self._see_through()
            finally:
                if remove:
                    await self._remove()

    async def _start(self) -> int:
        self._starting = asyncio.create_task(self._executor.start(self._request, progress=self._progress.show))
        await asyncio.wait({self._starting})
        self._progress.clear()
        first = self._interrupts.first
        if self._starting.cancelled() or (first is not None and self._starting.exception() is not None):
            return 128 + (first or signal.SIGINT)
        await self._starting
        return 0

    async def _see_through(self) -> int:
        if not self._json:
            self._copying = asyncio.create_task(self._copy())
        ending = asyncio.create_task(self._executor.wait(self._id))
        try:
            result = await ending
            await self._drain()
        finally:
            ending.cancel()
        if self._cancels:
            await asyncio.wait(self._cancels)
        return self._conclude(result)

    async def _copy(self) -> None:
        request = LogStreamRequest(execution_id=self._id, follow=True)
        try:
            async with await self._executor.get_log_stream(request) as stream:
                await copy_entries(stream)
        except BrokenPipeError:
            self._interrupts.put(signal.SIGPIPE)
        except OSError as error:
            say(f"the job's output cannot be written: {error.strerror}")
            self._interrupts.put(signal.SIGPIPE)
        except ExecutorError as error:
            report(error, as_json=self._json)

    async def _drain(self) -> None:
        """The last of the output; not for ever, once somebody wants us gone."""
        if self._copying is None:
            return
        while not self._copying.done():
            limit = None if self._interrupts.first is None else _DRAIN
            arriving = asyncio.create_task(self._interrupts_arrive())
            done, _ = await asyncio.wait(
                {self._copying, arriving}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            arriving.cancel()
            if not done:
                self._copying.cancel()
                await asyncio.wait({self._copying})

    def _conclude(self, result: ExecutionResult) -> int:
        if self._json:
            emit_json(result.to_builtins())
        elif result.reason not in ("exited", "signaled") and self._interrupts.first is None:
            say(f"execution {self._id}: {result.error_msg}")
        if result.reason == "cancelled" and self._interrupts.first is not None:
            return 128 + self._interrupts.first
        return of_run(result)
