"""Our stdin and our terminal, lent to a command: raw while it has them, restored however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import termios
import threading
import tty
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..lifecycle import ExecSession

__all__ = ["Keyboard", "refuse_no_terminal"]

_STDIN = 0
_CHUNK = 64 << 10


def refuse_no_terminal() -> None:
    """Raises `InvalidRequest` where our stdin is none."""
    from ..errors import InvalidRequest

    if not os.isatty(_STDIN):
        raise InvalidRequest("the input device is not a TTY", path="-t", mend="Leave out -t, or call it on a terminal")


class Keyboard:
    """While it is entered, `command` reads what we read (`reads`), and a `raw` terminal's keys and size are its own.

    Without `reads` the command's input is at its end, but a terminal's stays open.
    """

    def __init__(self, command: ExecSession, *, reads: bool, raw: bool) -> None:
        self._command = command
        self._reads = reads
        self._raw = raw
        self._before: list[Any] | None = None
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        if self._raw:
            self._before = termios.tcgetattr(_STDIN)
            tty.setraw(_STDIN)
            self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
            self._resize()
        if self._reads:
            # A daemon: a read that never returns must not keep us from leaving.
            threading.Thread(target=self._pump, name="stdin", daemon=True).start()
        elif not self._raw:
            self._command.close_stdin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            self._loop.remove_signal_handler(signal.SIGWINCH)
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._before)

    def _resize(self) -> None:
        from ..errors import ExecutorError

        with contextlib.suppress(ExecutorError, OSError):
            self._command.resize(*os.get_terminal_size(_STDIN))

    def _pump(self) -> None:
        from ..errors import ExecutorError

        # The command need not read its input, and may end first.
        with contextlib.suppress(ExecutorError, RuntimeError, OSError, CancelledError):
            while data := os.read(_STDIN, _CHUNK):
                asyncio.run_coroutine_threadsafe(self._command.write(data), self._loop).result()
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        from ..errors import ExecutorError

        with contextlib.suppress(ExecutorError):
            self._command.close_stdin()
