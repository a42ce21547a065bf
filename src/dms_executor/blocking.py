"""What `dms_executor.sync.Executor` gives out that goes on: events, logs, and commands in jobs, all blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

from .lifecycle import ExecSession as AsyncExecSession
from .logs.entry import Gap, LogEntry
from .logs.stream import LogStream as AsyncLogStream
from .loop_thread import LoopThread
from .types import Event, Stream

__all__ = ["Events", "ExecSession", "Iteration", "LogStream"]

P = ParamSpec("P")
T = TypeVar("T")


class _Closed:
    """What is closed at the end of its `with`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Iteration(Generic[T]):
    """An asynchronous iterator of the loop as a blocking one."""

    def __init__(self, loop: LoopThread, source: AsyncIterator[T]) -> None:
        self._loop = loop
        self._source = source

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        found = self._loop.call(_following(self._source))
        if not found:
            raise StopIteration
        return found[0]


class Events(Iteration[Event]):
    """Transitions, one by one; it ends only by `close`, by `ExecutorClosed`, or by leaving the loop over it."""

    def close(self) -> None:
        """Ends it. Not while another thread waits for the next event. Idempotent."""
        closing = getattr(self._source, "aclose", None)
        if closing is not None and self._loop.alive:
            self._loop.call(closing())


class LogStream(_Closed):
    """An execution's output as a blocking reader: bytes (`read`, iteration) or entries. One reader at a time."""

    def __init__(self, loop: LoopThread, stream: AsyncLogStream) -> None:
        self._loop = loop
        self._stream = stream
        self._bytes = Iteration(loop, stream)

    @property
    def gaps(self) -> dict[Stream, int]:
        """Bytes that the log lost, by stream, as far as it was read."""
        return dict(self._stream.gaps)

    def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, at least one; b"" at the end. A negative `n`: all until the end, however long."""
        return self._loop.call(self._stream.read(n))

    def __iter__(self) -> Iterator[bytes]:
        return self._bytes

    def entries(self) -> Iterator[LogEntry | Gap]:
        """The log's entries in order."""
        return Iteration(self._loop, self._stream.entries())

    def close(self) -> None:
        """Ends the stream; a call that waits in another thread ends, too. Idempotent."""
        if self._loop.alive:
            self._loop.call(self._stream.aclose())


class ExecSession(_Closed):
    """A command in a running job, or a job's own terminal, blocking; see `dms_executor.ExecSession`.

    One thread may read while others write. Iteration gives (stream, bytes).
    """

    def __init__(self, loop: LoopThread, session: AsyncExecSession) -> None:
        self._loop = loop
        self._session = session
        self.execution_id = session.execution_id

    @property
    def timed_out(self) -> bool:
        """Whether the command was killed since its `timeout` had passed."""
        return self._session.timed_out

    def write(self, data: bytes) -> None:
        """All of `data` to its stdin. Raises `ExecutionNotRunning` where nobody reads that any more."""
        self._loop.call(self._session.write(data))

    def close_stdin(self) -> None:
        """The end of its input."""
        self._loop.call(_called(self._session.close_stdin))

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal."""
        self._loop.call(_called(self._session.resize, columns, rows))

    def signal(self, signal: int | str) -> None:
        """15, "TERM" or "SIGTERM" to its main process."""
        self._loop.call(_called(self._session.signal, signal))

    def read(self) -> tuple[Stream, bytes] | None:
        """The next piece of output, None at the end."""
        return self._loop.call(self._session.read())

    def __iter__(self) -> Iterator[tuple[Stream, bytes]]:
        while (piece := self.read()) is not None:
            yield piece

    def wait(self) -> int | None:
        """The exit code."""
        return self._loop.call(self._session.wait())

    def kill(self) -> None:
        """Kills it with all that came of it."""
        self._loop.call(self._session.kill())

    def close(self) -> None:
        """Ends the session. Idempotent."""
        if self._loop.alive:
            self._loop.call(self._session.aclose())


async def _called(method: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
    """Within the loop's thread."""
    method(*arguments, **named)


async def _following(source: AsyncIterator[T]) -> tuple[T] | tuple[()]:
    async for item in source:
        return (item,)
    return ()
