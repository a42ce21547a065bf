"""`Session`: a further process in a running job, from the side of its client (docs/protocol.md, section 2).

The shim spawns the runtime and guards the process: it is in a control group of its own before its first instruction,
and the end of this connection, however it comes, is the end of all that is in there. Everything else is between the
client and the process: the pipes are theirs alone, and the init of the session reports to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..errors import EngineUnreachable, ExecutionNotRunning, ExecutorError, StartFailed
from ..threads import finished
from . import frames
from .dialling import dial
from .reported import Reported, code_of, settle
from .shim import sentence
from .spawning import mapped

__all__ = ["Session", "SessionSpec", "open_session"]

_START = 60.0  # seconds for a runtime that enters a container, on a busy host
_CLOSE = 10.0  # the shim itself gives up after two
_READ = 4096


class SessionSpec:
    """What the shim is asked for.

    `argv`: the command that it runs, with the report socket as descriptor 3 and `passed` after it (they are closed).
    `group`: the job's control group in which the session gets its own, which is descriptor 4 then; empty: none.
    `owner`: the host's id of the job's root, to whom the pipes are given.
    """

    def __init__(self, argv: list[str], passed: list[int], *, group: str, owner: int | None, terminal: bool) -> None:
        self.argv = argv
        self.passed = passed
        self.group = group
        self.owner = owner
        self.terminal = terminal


class _Ends:
    """What the client keeps."""

    def __init__(self, control: socket.socket, report: socket.socket, stdin: int, stdout: int, stderr: int) -> None:
        self.control = control
        self.report = report
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    def close(self) -> None:
        self.control.close()
        self.report.close()
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


def _dialled(folder: Path, spec: SessionSpec) -> _Ends:
    """Makes the pipes and asks the shim. Closes `spec.passed`. Raises `ExecutionNotRunning`. Blocks."""
    given: list[int] = [*spec.passed]
    kept: list[int] = []
    sockets: list[socket.socket] = []
    try:
        control = dial(folder)
        if control is None:
            raise ExecutionNotRunning("its shim is gone")
        sockets.append(control)
        ours, theirs = socket.socketpair()
        sockets += [ours, theirs]
        # The kernel's word for which process the init is.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.setblocking(False)
        for reads in (False, True, True):
            end, other = os.pipe2(os.O_CLOEXEC)
            mine, its = (end, other) if reads else (other, end)
            kept.append(mine)
            given.append(its)
            os.set_blocking(mine, False)
            if spec.owner is not None:
                os.fchown(its, spec.owner, spec.owner)
        payload = b"".join(os.fsencode(word) + b"\0" for word in (spec.group, *spec.argv))
        stdio = given[-3:]
        descriptors = [*stdio, theirs.fileno(), *spec.passed]
        socket.send_fds(control, [frames.pack(frames.OPEN, payload)], descriptors)
        theirs.close()
        return _Ends(control, ours, *kept)
    except BaseException as error:
        for each in sockets:
            each.close()
        for fd in kept:
            os.close(fd)
        if isinstance(error, OSError):
            raise mapped(error, "the command cannot be given its streams") from error
        raise
    finally:
        for fd in given:
            os.close(fd)


class Session(Reported):
    """A running process of a session; an `engine.Channel`. Made by `open_session`."""

    def __init__(self, ends: _Ends, terminal: bool) -> None:
        super().__init__(ends.report, ends.stdin, ends.stdout, ends.stderr, terminal=terminal)
        self._control = ends.control
        self._answers: deque[asyncio.Future[str | None]] = deque()
        self._from_shim = frames.Decoder()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._entering: asyncio.Task[None] | None = None
        self._loop.add_reader(self._control, self._serve, self._control_readable)
        self._loop.add_reader(self._report, self._serve, self._report_readable)

    async def kill(self) -> None:
        """Returns once nothing of it is left. Raises `EngineUnreachable`."""
        self._killing = True
        await self._close(kill=True)

    async def aclose(self) -> None:
        """Kills what has not ended, and returns once nothing of that is left."""
        try:
            if self._exit.done():
                self._tell(frames.INIT_LEAVE)  # an init that is still there lets live what its command left
                self._send_close(kill=False)  # the shim reads it before it sees the connection end
            else:
                await self._close(kill=True)
        finally:
            if self._entering is not None:
                self._entering.cancel()
            self._hang_up_report()
            self._hang_up_control()
            self._pipes.close()

    # -- its beginning -------------------------------------------------------------------------------------------

    async def started(self) -> None:
        """Waits until the command runs. Raises `StartFailed`, `ExecutionNotRunning`."""
        opened: asyncio.Future[str | None] = self._loop.create_future()
        self._answers.append(opened)
        try:
            async with asyncio.timeout(_START):
                await self._started
        except TimeoutError:
            raise StartFailed(f"the runtime did not start the command within {_START:.0f} s") from None
        if self._failure:
            raise StartFailed(self._failure, errno=self._errno)
        refusal = opened.result() if opened.done() else None
        if refusal is not None:
            raise ExecutionNotRunning(f"the command was refused: {refusal}")
        if not self._reported:
            if self._control.fileno() < 0:
                raise ExecutionNotRunning("the job has ended")
            raise StartFailed(await self._complaint())

    async def _complaint(self) -> str:
        """What the runtime wrote to the command's stderr."""
        await self._close(kill=True)
        said = b" ".join(self._pipes.read_now().values()).decode("utf-8", "replace")
        return " ".join(said.split()) or "the runtime ended and started nothing"

    async def _enter(self, pid: int) -> None:
        """Tells the shim which process it is, and lets it go on where it could not move itself into its group."""
        refusal = await self._ask(frames.ENTER, struct.pack("<I", pid))
        if self._reported:
            return  # it runs, or has ended already
        if refusal is not None:
            self._fail(f"the command cannot be confined: {refusal}")
            return
        self._tell(frames.INIT_GO)

    # -- what comes ----------------------------------------------------------------------------------------------

    def _serve(self, readable: Callable[[], None]) -> None:
        """A defect in there would be the event loop's to log, and nobody would ever hear of the start again."""
        try:
            readable()
        except Exception as error:
            self._fail(f"a session failed: {error!r}; this is a defect, please report it")
            self._hang_up_report()
            self._hang_up_control()
            raise

    def _born(self, pid: int) -> None:
        if self._entering is None:
            self._entering = self._loop.create_task(self._enter(pid), name="enter a session's group")

    def _report_ended(self) -> None:
        """Without a word of how it ended: the shim, whose child it is, knows."""
        if not self._exit.done():
            self._send_close(kill=True)

    def _control_readable(self) -> None:
        try:
            data = self._control.recv(_READ)
            for kind, payload in self._from_shim.feed(data):
                self._take(kind, payload)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, frames.ProtocolError):
            data = b""
        if not data:
            self._hang_up_control()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind in (frames.OK, frames.ERROR) and self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(sentence(payload) if kind == frames.ERROR else None)
            if kind == frames.ERROR and not self._started.done():
                settle(self._started)
        elif kind == frames.CLOSED:
            self._is_over(struct.unpack("<ii", payload)[0])
            settle(self._closed)
        elif kind == frames.ENDED:
            # The kernel has killed what else was in the job's pid namespace.
            self._is_over(signal.SIGKILL)

    def _is_over(self, status: int) -> None:
        """`status` as of wait(2), -1 unknown."""
        self._ended(code_of(status) if status >= 0 else 128 + signal.SIGKILL if self._killing else None)

    # -- its end -------------------------------------------------------------------------------------------------

    async def _ask(self, kind: int, payload: bytes) -> str | None:
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._answers.append(answer)
        with contextlib.suppress(OSError):
            self._control.send(frames.pack(kind, payload), socket.MSG_NOSIGNAL)
        return await answer

    def _send_close(self, *, kill: bool) -> None:
        with contextlib.suppress(OSError):
            self._control.send(frames.pack(frames.CLOSE, struct.pack("<I", kill)), socket.MSG_NOSIGNAL)

    async def _close(self, *, kill: bool) -> None:
        if self._closed.done():
            return
        if kill:
            self._hang_up_report()  # an init without a control group of its own kills its children itself
        self._send_close(kill=kill)
        try:
            async with asyncio.timeout(_CLOSE):
                await asyncio.shield(self._closed)
        except TimeoutError:
            raise EngineUnreachable(f"the shim did not end the command within {_CLOSE:.0f} s") from None

    def _hang_up_control(self) -> None:
        if self._control.fileno() < 0:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._is_over(-1)
        settle(self._closed)
        settle(self._started)
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result("the job has ended")


async def open_session(prepare: Callable[[], SessionSpec], folder: Path) -> Session:
    """Asks the shim of the execution in `folder`; returns once the command runs. `prepare` is called in a thread.

    Raises `StartFailed`, `ExecutionNotRunning`, and what `prepare` raises.
    """
    ends, terminal = await finished(_undo, _prepared, prepare, folder)
    session = Session(ends, terminal)
    try:
        await session.started()
    except BaseException:
        with contextlib.suppress(ExecutorError):
            await session.aclose()
        raise
    return session


def _prepared(prepare: Callable[[], SessionSpec], folder: Path) -> tuple[_Ends, bool]:
    spec = prepare()
    return _dialled(folder, spec), spec.terminal


def _undo(prepared: tuple[_Ends, bool]) -> None:
    prepared[0].close()
