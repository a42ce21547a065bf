"""The power `attach`: FIFOs in the execution's folder, which the job's init reads (docs/protocol.md, section 3).

No stream of the daemon's leads there: what is written counts though its writer leaves or dies, the job's input is as
open as before, and the end of it is said by whoever is attached, in this process or another. A job can reach the FIFOs
as well, and so write to its own input: to nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..engine import Execution
from ..errors import ExecutionNotRunning, ExecutorError
from ..supervisor import frames
from ..supervisor.job_input import JobInput
from ..supervisor.spawning import mapped
from ..threads import finished
from . import files
from .report import read_report

__all__ = ["Attachment", "attach"]

_SIGNALS = 10.0  # seconds for the daemon to take what was sent before the session was closed
_log = logging.getLogger("dms_executor.docker")


class _Ends:
    """None: the job's input was never open, or is closed."""

    def __init__(self, stdin: int | None, control: int | None) -> None:
        self.stdin = stdin
        self.control = control

    def close(self) -> None:
        for fd in (self.stdin, self.control):
            if fd is not None:
                os.close(fd)


class Attachment:
    """An `engine.Attached`; closing it leaves the job alone, and its input open."""

    def __init__(self, ends: _Ends, send: Callable[[int], Awaitable[None]], *, terminal: bool) -> None:
        self._input = JobInput(ends.stdin)
        self._input.is_terminal = terminal
        self._control = ends.control
        self._send = send
        self._signals: set[asyncio.Task[None]] = set()
        self._has_ended = False

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where the job has no open input (any more)."""
        await self._input.write(data)

    def close_stdin(self) -> None:
        """The job reads the end of its input, for good; on a terminal what its user types for that. Idempotent."""
        self._input.end(lambda: self._ask(frames.CLOSE_INPUT))

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal, if there is one."""
        self._ask(frames.RESIZE, struct.pack("<II", columns, rows))

    def signal(self, signum: int) -> None:
        """By the daemon, in the order of the calls. Raises `ExecutionNotRunning`."""
        if self._has_ended:
            raise ExecutionNotRunning("the job has ended")
        task = asyncio.get_running_loop().create_task(self._signalled(signum), name="signal to an attached job")
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)

    async def aclose(self) -> None:
        """Idempotent."""
        if self._signals:
            await asyncio.wait(self._signals, timeout=_SIGNALS)
        for task in self._signals:
            task.cancel()
        await self._input.aclose()
        control, self._control = self._control, None
        if control is not None:
            os.close(control)

    def _ask(self, kind: int, payload: bytes = b"") -> None:
        # Frames are tiny: a full FIFO belongs to a job that is paused or stuck, a broken one to one that is gone.
        if self._control is not None:
            with contextlib.suppress(OSError):
                os.write(self._control, frames.pack(kind, payload))

    async def _signalled(self, signum: int) -> None:
        try:
            await self._send(signum)
        except ExecutionNotRunning:
            self._has_ended = True
        except ExecutorError as error:
            _log.warning("signal %d to an attached job: %s", signum, error)


async def attach(x: Execution, send: Callable[[int], Awaitable[None]]) -> Attachment:
    """`send`: a signal to the job. Raises `ExecutionNotRunning`."""
    return Attachment(await finished(_Ends.close, _opened, x), send, terminal=x.request.tty)


def _opened(x: Execution) -> _Ends:
    """Blocks."""
    if read_report(files.folder_of(x) / "report").is_over:
        raise ExecutionNotRunning("the job has ended", execution_id=x.id)
    ends = _Ends(None, None)
    try:
        ends.stdin = _end(files.calls_of(x) / files.STDIN)
        ends.control = _end(files.calls_of(x) / files.CONTROL)
    except OSError as error:
        ends.close()
        raise mapped(error, "no input can be given to the job") from error
    return ends


def _end(path: Path) -> int | None:
    """None: nobody reads it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return None
        raise
