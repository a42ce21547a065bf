"""What goes out: results and the job's output to stdout, our own words only to stderr."""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import ExecutorError
    from ..types import Progress

__all__ = [
    "STDERR",
    "STDOUT",
    "ProgressLine",
    "emit",
    "emit_json",
    "end_line",
    "open_standard_descriptors",
    "report",
    "say",
    "silence",
    "table",
    "write",
]

STDOUT, STDERR = 1, 2
# A pipe that poll(2) calls writable takes this much without blocking (pipe(7): PIPE_BUF is 4096 on Linux).
_AT_ONCE = select.PIPE_BUF
_WIDE = 1 << 20


def emit(line: str) -> None:
    """One line to stdout. Raises BrokenPipeError where nobody reads any more."""
    data = memoryview(os.fsencode(line + "\n"))
    while data:
        data = data[os.write(STDOUT, data) :]


def emit_json(value: Any) -> None:
    """One object, one line, to stdout."""
    from ..types import encode

    emit(encode(value).decode())


def say(text: str) -> None:
    """Our own words, to stderr. Nobody listening is no error."""
    _complain(f"dms-executor: {text}\n")


def report(error: ExecutorError, *, as_json: bool, kind: str | None = None) -> None:
    """An error: message and mend, or one object whose `type` is the error's own unless said."""
    if not as_json:
        mend = f"\n  {error.mend}" if error.mend else ""
        say(error.message + mend)
        return
    from ..types import encode

    fields = {
        "type": kind or type(error).__name__,
        "message": error.message,
        "mend": error.mend,
        "execution_id": error.execution_id,
    }
    _complain(encode(fields).decode() + "\n")


def open_standard_descriptors() -> None:
    """Stands in for a stdin, stdout or stderr that is closed, so that no file of ours ever gets its number."""
    for fd in (0, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def end_line() -> None:
    """The line on which a terminal has shown ^C."""
    if os.isatty(STDERR):
        _complain("\n")


def silence() -> None:
    """Nobody reads stdout any more: what Python still holds for it goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, three spaces apart, as wide as their widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        emit("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


async def write(fd: int, data: bytes) -> None:
    """All of `data` to a descriptor that may be slow, without blocking the loop and without making it non-blocking.

    O_NONBLOCK would belong to everybody who shares the terminal or the pipe. Raises BrokenPipeError.
    """
    rest = memoryview(data)
    piece = _WIDE if stat.S_ISREG(os.fstat(fd).st_mode) else _AT_ONCE
    while rest:
        if not select.select([], [fd], [], 0)[1]:
            await _writable(fd)
        rest = rest[os.write(fd, rest[:piece]) :]


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # A descriptor of its own: stdout and stderr may both wait for the same pipe.
    waiting = os.dup(fd)
    loop.add_writer(waiting, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(waiting)
        os.close(waiting)


class ProgressLine:
    """How far a preparation is, on one line of stderr; only on a terminal."""

    def __init__(self) -> None:
        self._shown = False
        self._wanted = os.isatty(STDERR)

    def show(self, progress: Progress) -> None:
        """Draws the line anew."""
        if self._wanted:
            self._shown = True
            _complain(f"\r\x1b[K{_progress(progress)}")

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            self._shown = False
            _complain("\r\x1b[K")


def _progress(progress: Progress) -> str:
    done, total = progress.done, progress.total
    if progress.unit == "bytes":
        counted = f"{done / 1e6:.1f} MB" + (f" of {total / 1e6:.1f} MB" if total else "")
    else:
        counted = f"{done}" + (f" of {total}" if total else "") + f" {progress.unit}"
    bar = ""
    if total:
        filled = min(20, 20 * done // total)
        bar = f" [{'#' * filled}{'.' * (20 - filled)}]"
    return f"{progress.what}{bar} {counted}"


def _complain(text: str) -> None:
    try:
        data = memoryview(os.fsencode(text))
        while data:
            data = data[os.write(STDERR, data) :]
    except OSError:
        return  # there is nobody left to tell
