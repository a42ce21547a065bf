"""`Attachment`: a client's hold on the stdin of a job, or on its terminal (docs/protocol.md, section 2).

Each client has a pipe of its own to the shim, which passes on what comes, so that a client which hangs or dies stops
nobody else; what it had written is still given to the job. Output is not here: it is in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

from ..errors import EngineUnreachable, ExecutionNotRunning
from ..threads import finished
from . import frames
from .dialling import dial
from .job_input import JobInput
from .shim import sentence
from .spawning import mapped

__all__ = ["Attachment", "attach"]

_ANSWER = 10.0  # seconds for an answer that the shim gives at once
_READ = 4096
_NONE, _TERMINAL = 0, 2


class Attachment:
    """An `engine.Attached`. Made by `attach`; closing it leaves the job alone, and its input open."""

    def __init__(self, control: socket.socket, stdin: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._input = JobInput(stdin)
        self._decoder = frames.Decoder()
        self._answer: asyncio.Future[int | str] = self._loop.create_future()
        self._loop.add_reader(control, self._readable)

    async def begun(self) -> None:
        """Raises `ExecutionNotRunning`, `EngineUnreachable`."""
        try:
            async with asyncio.timeout(_ANSWER):
                answer = await self._answer
        except TimeoutError:
            raise EngineUnreachable(f"the shim did not answer within {_ANSWER:.0f} s") from None
        if isinstance(answer, str):
            raise ExecutionNotRunning(f"nobody can attach: {answer}")
        self._input.is_terminal = answer == _TERMINAL
        if answer == _NONE:
            await self._input.aclose()

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where the job has no open input (any more)."""
        await self._input.write(data)

    def close_stdin(self) -> None:
        """The job reads the end of its input, for good; on a terminal what its user types for that. Idempotent."""
        self._input.end(lambda: self._send(frames.CLOSE_INPUT))

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal, if there is one."""
        self._send(frames.RESIZE, struct.pack("<II", columns, rows))

    def signal(self, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        if self._control.fileno() < 0:
            raise ExecutionNotRunning("the job has ended")
        self._send(frames.SIGNAL, struct.pack("<I", signum))

    async def aclose(self) -> None:
        """Idempotent."""
        await self._input.aclose()
        self._hang_up()

    def _send(self, kind: int, payload: bytes = b"") -> None:
        # Frames are tiny: a full socket belongs to a shim that is stuck, a broken one to one that is gone.
        with contextlib.suppress(OSError):
            self._control.send(frames.pack(kind, payload), socket.MSG_NOSIGNAL)

    def _readable(self) -> None:
        try:
            data = self._control.recv(_READ)
            for kind, payload in self._decoder.feed(data):
                self._take(kind, payload)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, frames.ProtocolError):
            data = b""
        if not data:
            self._hang_up()

    def _take(self, kind: int, payload: bytes) -> None:
        if self._answer.done():
            return
        if kind == frames.ATTACHED:
            self._answer.set_result(struct.unpack("<I", payload)[0])
        elif kind == frames.ERROR:
            self._answer.set_result(sentence(payload))

    def _hang_up(self) -> None:
        if self._control.fileno() < 0:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        if not self._answer.done():
            self._answer.set_result("the job has ended")


async def attach(folder: Path) -> Attachment:
    """To the job of the execution in `folder`. Raises `ExecutionNotRunning`, `EngineUnreachable`."""
    control, stdin = await finished(_undo, _dialled, folder)
    attachment = Attachment(control, stdin)
    try:
        await attachment.begun()
    except BaseException:
        await attachment.aclose()
        raise
    return attachment


def _dialled(folder: Path) -> tuple[socket.socket, int]:
    """Blocks."""
    control = dial(folder)
    if control is None:
        raise ExecutionNotRunning("its shim is gone")
    ends: tuple[int, ...] = ()
    try:
        ends = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ends[1], False)
        socket.send_fds(control, [frames.pack(frames.ATTACH)], [ends[0]])
        os.close(ends[0])
    except OSError as error:
        control.close()
        for fd in ends:
            os.close(fd)
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise ExecutionNotRunning("the job has ended") from error
        raise mapped(error, "no input can be given to the job") from error
    return control, ends[1]


def _undo(dialled: tuple[socket.socket, int]) -> None:
    control, stdin = dialled
    control.close()
    os.close(stdin)
