"""Sessions with a command in a running job, or with the job itself: bounds, deadlines, results, engines alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..engine import Channel, Command, Execs
from ..errors import ExecutionNotRunning, ExecutorClosed, ExecutorError, InvalidRequest, NotSupported
from ..types import ExecResult, Stream, signal_number
from .stop import running

if TYPE_CHECKING:
    from .core import Core

__all__ = ["ExecSession", "checked_command", "open_session", "run_command"]

_MOST_CELLS = 65535  # of a terminal, each way: struct winsize
_CLOSE = 15.0  # seconds; an engine gives up before


class ExecSession:
    """A command in a running job, or the job itself, with live input and output; `async with` it, or `aclose` it.

    `async for stream, data in session` gives its output as it comes ("stdout" or "stderr"; with a terminal all is
    "stdout"), by one reader at a time; who does not read stops the command once the kernel's pipe is full. Closing it
    kills the command with all that came of it, unless it has ended: then what it left in the background lives on. The
    job goes on in any case.

    Of a session by `attach` the command is the job: closing it leaves that alone, its output is the log's, `kill`
    cancels the execution.
    """

    def __init__(self, core: Core, execution_id: str, channel: Channel, timeout: float | None) -> None:
        self._core = core
        self._channel = channel
        self._closing: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None
        self._alarm = None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._expire)
        self.execution_id = execution_id
        self.timed_out = False
        """Whether the command was killed since its `timeout` had passed."""
        core.sessions.add(self)

    async def write(self, data: bytes) -> None:
        """All of `data` to the command's stdin. Raises `ExecutionNotRunning` where nobody reads that any more."""
        self._check()
        await self._channel.write(data)

    def close_stdin(self) -> None:
        """The end of the command's input; its output goes on. On a terminal: what its user types for that, Ctrl-D."""
        self._check()
        self._channel.close_stdin()

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal; does nothing without one."""
        self._check()
        self._channel.resize(*_size((columns, rows)))

    def signal(self, signal: int | str) -> None:
        """15, "TERM" or "SIGTERM" to the command's main process. Raises `ExecutionNotRunning`."""
        self._check()
        self._channel.signal(signal_number(signal))

    async def __aiter__(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """Its output, to its end: also a child that holds a stream open does not keep it from ending."""
        while (piece := await self.read()) is not None:
            yield piece

    async def read(self) -> tuple[Stream, bytes] | None:
        """The next piece of output, None at the end. A call that is cancelled loses nothing."""
        self._check()
        piece = await self._channel.read()
        self._check()
        return piece

    async def wait(self) -> int | None:
        """The exit code: 128 + n for a signal; None where nobody can know it. Output must be read meanwhile."""
        self._check()
        code = await self._channel.wait()
        if self._killing is not None:
            await asyncio.shield(self._killing)  # what it had started is gone as well
        self._check()
        return code

    async def kill(self) -> None:
        """Kills the command and all that came of it; returns once nothing is left. The rest of its output stays."""
        self._check()
        if self._killing is None:
            self._killing = self._core.tasks.spawn(self._channel.kill(), f"kill a command in {self.execution_id}")
        await asyncio.shield(self._killing)

    async def aclose(self) -> None:
        """Idempotent. A call that is cancelled completes all the same."""
        if self._closing is None:
            self._closing = self._core.tasks.spawn(self._close(), f"close a session in {self.execution_id}")
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._core.sessions.discard(self)
        async with asyncio.timeout(_CLOSE):
            await self._channel.aclose()

    def _expire(self) -> None:
        self.timed_out = True
        if self._killing is None and self._closing is None:
            self._killing = self._core.tasks.spawn(self._channel.kill(), f"timeout of a command in {self.execution_id}")

    def _check(self) -> None:
        if self._closing is None:
            return
        if self._core.closing.is_set():
            raise ExecutorClosed("the executor was closed", mend="Its commands in jobs ended with it; the jobs go on")
        raise ExecutionNotRunning("the session is closed", execution_id=self.execution_id)


async def open_session(core: Core, execution_id: str, command: Command, timeout: float | None) -> ExecSession:
    """Begins a command in a running job. Raises `ExecutionNotRunning`, `NotSupported`, `StartFailed`."""
    if timeout is not None and not 0 < timeout < 1e9:
        raise InvalidRequest(f"{timeout} is no duration", path="$.timeout", mend="Use seconds, more than 0")
    live = core.seen_running(execution_id) or await running(core, execution_id)
    if live.handle is None or not isinstance(live.engine, Execs):
        raise NotSupported(
            f"engine {live.engine.name} has no exec", engine=live.engine.name, what="exec", execution_id=execution_id
        )
    try:
        channel = await core.unless_closed(live.engine.exec(live.x, live.handle, command))
    except ExecutorError as error:
        error.execution_id = error.execution_id or execution_id
        raise
    return ExecSession(core, execution_id, channel, timeout)


async def run_command(
    core: Core, execution_id: str, command: Command, *, stdin: bytes, timeout: float | None, max_output: int
) -> ExecResult:
    """A command to its end. Cancelled, it kills the command."""
    if max_output < 0:
        raise InvalidRequest(f"{max_output} is no size", path="$.max_output", mend="Use bytes, 0 or more")
    kept: dict[Stream, _Tail] = {"stdout": _Tail(max_output), "stderr": _Tail(max_output)}
    async with await open_session(core, execution_id, command, timeout) as session:
        feeding = asyncio.create_task(_feed(session, stdin), name=f"stdin of a command in {execution_id}")
        try:
            async for stream, data in session:
                kept[stream].add(data)
            code = await session.wait()
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})
        timed_out = session.timed_out
    return ExecResult(
        exit_code=code,
        stdout=kept["stdout"].data,
        stderr=kept["stderr"].data,
        stdout_truncated=kept["stdout"].truncated,
        stderr_truncated=kept["stderr"].truncated,
        timed_out=timed_out,
    )


def checked_command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None,
    working_directory: str | None,
    user: str | None,
    terminal: tuple[int, int] | None = None,
) -> Command:
    """Raises `InvalidRequest`, which names the argument."""
    if isinstance(argv, str) or not all(isinstance(word, str) for word in argv) or not argv or not argv[0]:
        raise InvalidRequest(f"{argv!r} is no command", path="$.argv", mend='Use words: ["ls", "-l"]')
    for name, texts in (
        ("argv", argv),
        ("environment", [*(environment or {}), *(environment or {}).values()]),
        ("working_directory", [working_directory or ""]),
        ("user", [user or ""]),
    ):
        if any(not isinstance(text, str) or "\0" in text for text in texts):
            raise InvalidRequest("text without NUL is wanted", path=f"$.{name}", mend="Leave the NUL out")
    if any(not name or "=" in name for name in environment or {}):
        raise InvalidRequest("the name of a variable is empty or has a '='", path="$.environment", mend="Use names")
    if working_directory is not None and not working_directory.startswith("/"):
        raise InvalidRequest(
            f"{working_directory!r} is not absolute", path="$.working_directory", mend="Use a path from /"
        )
    if user == "":
        raise InvalidRequest("a user is wanted", path="$.user", mend='"name", "uid", either with ":group"')
    return Command(
        argv=list(argv),
        environment=dict(environment or {}),
        working_directory=working_directory,
        user=user,
        terminal=None if terminal is None else _size(terminal),
    )


def _size(size: tuple[int, int]) -> tuple[int, int]:
    columns, rows = size
    if not (0 < columns <= _MOST_CELLS and 0 < rows <= _MOST_CELLS):
        raise InvalidRequest(f"{size} is no terminal's size", path="$.size", mend="(columns, rows), e.g. (80, 24)")
    return columns, rows


async def _feed(session: ExecSession, stdin: bytes) -> None:
    with contextlib.suppress(ExecutorError):  # a command need not read its input
        if stdin:
            await session.write(stdin)
        session.close_stdin()


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._most + 65536:
            self._cut()

    @property
    def data(self) -> bytes:
        self._cut()
        return bytes(self._data)

    def _cut(self) -> None:
        over = len(self._data) - self._most
        if over > 0:
            del self._data[:over]
            self.truncated = True
