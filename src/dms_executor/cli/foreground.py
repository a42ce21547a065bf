"""A job in the foreground: its output comes out here as it is written, and the signals that we get cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import ExecutionAlreadyFinished, ExecutionNotFinished, ExecutionNotFound, ExecutorError
from ..types import LogStreamRequest
from .codes import of_run
from .entries import copy_entries
from .pipe import reader_watched
from .terminal import STDOUT, ProgressLine, emit_json, end_line, report, say

if TYPE_CHECKING:
    from ..executor import Executor
    from ..logs.stream import LogStream
    from ..types import ExecutionRequest, ExecutionResult
    from .lent import Lent

__all__ = ["Foreground", "Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DRAIN = 2.0
"""Seconds that a reader of ours who has stopped reading holds us up once the job is cancelled and gone."""


class Interrupts:
    """What asks us to stop: SIGINT, SIGTERM, SIGHUP, and SIGPIPE for a reader of our stdout that has gone away."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._handled: list[signal.Signals] = []
        self.first: signal.Signals | None = None
        self.some = asyncio.Event()

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

    def put(self, number: signal.Signals) -> None:
        """One more."""
        self.first = self.first or number
        self.some.set()
        self._arrived.put_nowait(number)

    async def next(self) -> signal.Signals:
        """The next one."""
        return await self._arrived.get()


class Foreground:
    """One execution of `run`."""

    def __init__(
        self,
        executor: Executor,
        request: ExecutionRequest,
        interrupts: Interrupts,
        lent: Lent,
        *,
        progress: ProgressLine,
        as_json: bool,
    ) -> None:
        self._executor = executor
        self._request = request
        self._id = request.execution_id
        self._interrupts = interrupts
        self._lent = lent
        self._progress = progress
        self._json = as_json
        self._starting: asyncio.Task[None] | None = None
        self._cancels: set[asyncio.Task[None]] = set()
        self._began = datetime.now(UTC)

    async def start(self) -> int:
        """Begins it and leaves it running. 0, or what a signal meanwhile makes of it."""
        async with self._obeying():
            code = await self._start()
            if self._cancels:
                await asyncio.wait(self._cancels)
            return code if self._interrupts.first is None else 128 + self._interrupts.first

    async def run(self, *, remove: bool) -> int:
        """From its start to its end. The exit code."""
        reader_gone = partial(self._interrupts.put, signal.SIGPIPE)
        async with self._obeying():
            try:
                with reader_watched(STDOUT, reader_gone):
                    return await self._start() or await self._see_through()
            finally:
                if remove:
                    await self._remove()

    async def _start(self) -> int:
        self._starting = asyncio.create_task(self._executor.start(self._request, progress=self._progress.show))
        await asyncio.wait({self._starting})
        self._progress.clear()
        if self._starting.cancelled():
            return 128 + (self._interrupts.first or signal.SIGINT)
        await self._starting
        return 0

    async def _see_through(self) -> int:
        # The keyboard first: whoever answers to what is shown types it to the job, not to a terminal that is ours yet.
        async with self._lent.to(self._executor, self._request) as keyboard:
            left = keyboard.detached if keyboard is not None else asyncio.Event()
            result = await (self._unless(left) if self._json else self._shown(left))
        if result is None:
            say(f"left execution {self._id}, which goes on")
            return 0
        if self._cancels:
            await asyncio.wait(self._cancels)
        return self._conclude(result)

    async def _shown(self, left: asyncio.Event) -> ExecutionResult | None:
        """The result, once what was written is out; None where the job was left."""
        # The stream is open before the result is asked for: with persist_logs=0 that takes the log away.
        logs = LogStreamRequest(execution_id=self._id, follow=True)
        async with await self._executor.get_log_stream(logs) as stream:
            copying = asyncio.create_task(self._copy(stream))
            try:
                result = await self._unless(left)
                if result is not None:
                    await self._drain(copying)
                return result
            finally:
                copying.cancel()
                await asyncio.wait({copying})

    async def _unless(self, left: asyncio.Event) -> ExecutionResult | None:
        """The result; None where the job was left by the keys for that."""
        waiting = asyncio.create_task(self._executor.wait(self._id))
        leaving = asyncio.create_task(left.wait())
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return await waiting if waiting.done() else None
        finally:
            for task in (waiting, leaving):
                task.cancel()
            await asyncio.wait({waiting, leaving})

    async def _copy(self, stream: LogStream) -> None:
        try:
            await copy_entries(stream)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                say(f"the job's output cannot be written: {error.strerror}")
            self._interrupts.put(signal.SIGPIPE)
        except ExecutorError as error:
            report(error, as_json=self._json)

    async def _drain(self, copying: asyncio.Task[None]) -> None:
        """The last of the output; not for ever, once somebody wants us gone."""
        interrupted = asyncio.create_task(self._interrupts.some.wait())
        await asyncio.wait({copying, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        await asyncio.wait({copying}, timeout=_DRAIN)

    def _conclude(self, result: ExecutionResult) -> int:
        first = self._interrupts.first
        if self._json:
            emit_json(result.to_builtins())
        elif result.reason not in ("exited", "signaled") and first is None:
            say(f"execution {self._id}: {result.error_msg}")
        if first is not None and (result.reason == "cancelled" or first is signal.SIGPIPE):
            return 128 + first
        return of_run(result)

    @contextlib.asynccontextmanager
    async def _obeying(self) -> AsyncIterator[None]:
        obeying = asyncio.create_task(self._obey())
        try:
            yield
        finally:
            obeying.cancel()
            await asyncio.wait({obeying})

    async def _obey(self) -> None:
        seen = 0
        while True:
            number = await self._interrupts.next()
            seen += number is signal.SIGINT
            if number is signal.SIGINT:
                end_line()
            if seen == 1 and number is signal.SIGINT:
                say(f"cancelling execution {self._id}; Ctrl-C again kills it at once")
            if self._starting is not None and not self._starting.done():
                self._starting.cancel()
            else:
                self._cancels.add(asyncio.create_task(self._cancel(0.0 if seen > 1 else None)))

    async def _cancel(self, grace: float | None) -> None:
        try:
            await self._executor.cancel(self._id, grace=grace)
        except (ExecutionAlreadyFinished, ExecutionNotFound):
            return
        except ExecutorError as error:
            report(error, as_json=self._json)

    async def _remove(self) -> None:
        """Takes away what this call made, and nothing that bore the id before."""
        with contextlib.suppress(ExecutionNotFound, ExecutionNotFinished):
            if (await self._executor.inspect(self._id)).created_at >= self._began:
                await self._executor.remove(self._id)
