"""A command whose init reports to us and whose streams we hold: what every session's client does with both.

Who started it, who kills it and who knows more of its end than the init said is the subclass's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios

from ..errors import ExecutionNotRunning
from ..types import Stream
from . import frames
from .ancillary import CREDENTIALS, is_master, sent_along
from .pipes import Pipes
from .record import command_errno
from .shim import sentence

__all__ = ["Reported", "code_of", "settle"]

_DRAIN = 0.3  # seconds that a child may keep a stream open once the command has ended
_READ = 4096


class Reported:
    """The part of an `engine.Channel` that needs nobody but the init. `report` is non-blocking, and ours to close."""

    def __init__(self, report: socket.socket, stdin: int, stdout: int, stderr: int, *, terminal: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._report = report
        outputs: dict[int, Stream] = {stdout: "stdout", stderr: "stderr"}
        self._pipes = Pipes(stdin, outputs, drain=_DRAIN)
        self._wants_terminal = terminal
        self._from_init = frames.Decoder()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._exit: asyncio.Future[int | None] = self._loop.create_future()
        self._reported = False
        """The init has said that the command runs."""
        self._failure = ""
        self._errno: int | None = None
        self._killing = False

    async def read(self) -> tuple[Stream, bytes] | None:
        """The next piece of output; None at the end."""
        return await self._pipes.read()

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where nobody reads its input any more."""
        await self._pipes.write(data)

    def close_stdin(self) -> None:
        """End of input."""
        self._pipes.close_stdin()

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal, if there is one."""
        if self._pipes.terminal is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._pipes.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        try:
            if self._exit.done() or self._report.fileno() < 0:
                raise ExecutionNotRunning("the command has ended")
            self._report.send(frames.pack(frames.INIT_SIGNAL, struct.pack("<I", signum)), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ExecutionNotRunning("the command has ended") from error

    async def wait(self) -> int | None:
        """The exit code."""
        return await asyncio.shield(self._exit)

    def _tell(self, kind: int) -> None:
        """The init, if it is still there."""
        with contextlib.suppress(OSError):
            self._report.send(frames.pack(kind), socket.MSG_NOSIGNAL)

    def _report_readable(self) -> None:
        try:
            space = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4)
            data, control, _, _ = self._report.recvmsg(_READ, space, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, control = b"", []
        pid, master = sent_along(control)
        try:
            for kind, payload in self._from_init.feed(data):
                master = self._said(kind, payload, pid, master)
        except frames.ProtocolError:
            data = b""
        if master is not None:
            os.close(master)
        if not data:
            self._hang_up_report()
            self._report_ended()

    def _said(self, kind: int, payload: bytes, pid: int, master: int | None) -> int | None:
        """Serves a frame of the init; gives back the descriptor if it was not taken. `pid`: the kernel's word, or 0."""
        if kind == frames.INIT_TERMINAL and self._wants_terminal and master is not None and is_master(master):
            self._pipes.become_terminal(master)
            return None
        if kind == frames.INIT_BORN:
            self._born(pid)
        elif kind == frames.INIT_STARTED:
            self._reported = True
            settle(self._started)
        elif kind == frames.INIT_FAILED:
            self._errno = command_errno(*frames.error(payload))
            self._fail(sentence(payload))
        elif kind == frames.INIT_EXITED:
            self._ended(code_of(struct.unpack("<I", payload)[0]))
        return master

    def _born(self, pid: int) -> None:
        """Its first word."""

    def _report_ended(self) -> None:
        """The init has gone, or hung up."""
        raise NotImplementedError

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        settle(self._started)

    def _ended(self, code: int | None) -> None:
        """Idempotent: the first word counts."""
        if self._exit.done():
            return
        self._exit.set_result(code)
        settle(self._started)
        self._pipes.ended()

    def _hang_up_report(self) -> None:
        if self._report.fileno() >= 0:
            self._loop.remove_reader(self._report)
            self._report.close()


def code_of(status: int) -> int:
    """Of a status as of wait(2)."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def settle(future: asyncio.Future[None]) -> None:
    """Idempotent."""
    if not future.done():
        future.set_result(None)
