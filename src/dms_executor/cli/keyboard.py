"""Our stdin and our terminal, lent to a job or a command: raw while it has them, restored however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import termios
import threading
import tty as modes
from concurrent.futures import CancelledError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .keys import DetachKeys

if TYPE_CHECKING:
    from ..lifecycle import ExecSession

__all__ = ["Keyboard", "refuse_no_terminal", "terminal_size"]

_STDIN = 0
_CHUNK = 64 << 10


def refuse_no_terminal() -> None:
    """Raises `InvalidRequest` where our stdin is none."""
    from ..errors import InvalidRequest

    if not os.isatty(_STDIN):
        raise InvalidRequest(
            "the input device is not a TTY", path="-t", mend="Leave out -t or -i, or call it on a terminal"
        )


def terminal_size() -> tuple[int, int] | None:
    """Columns and rows of our terminal; None where stdin is none."""
    try:
        columns, rows = os.get_terminal_size(_STDIN)
    except OSError:
        return None
    return max(1, columns), max(1, rows)


class Keyboard:
    """While it is entered, what we read (`reads`) is typed to `session`, and where that has a terminal (`tty`), our
    terminal's size is its own, and its keys, which then are none of ours but `keys`. `redraw`: somebody was there
    before, and is asked to draw anew what nobody has kept.
    """

    def __init__(self, session: ExecSession, *, reads: bool, tty: bool, keys: DetachKeys, redraw: bool = False) -> None:
        self._session = session
        self._reads = reads
        self._tty = tty
        self._keys = keys if tty else DetachKeys("")
        self._redraw = redraw
        self._before: list[Any] | None = None
        self._stop: int | None = None
        self._loop = asyncio.get_running_loop()
        self.detached = asyncio.Event()
        """The keys that leave were typed."""

    def __enter__(self) -> Self:
        if self._tty:
            self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
            if self._redraw:
                self._resize(1)  # a program draws anew when it is told of another size
            self._resize()
        if self._tty and self._reads:
            self._before = termios.tcgetattr(_STDIN)
            self._loop.add_signal_handler(signal.SIGQUIT, self._quit)
            modes.setraw(_STDIN, termios.TCSANOW)  # what was typed ahead is typed
        if self._reads:
            stopped, self._stop = os.pipe2(os.O_CLOEXEC)
            # A daemon: a write that never returns must not keep us from leaving.
            threading.Thread(target=self._pump, args=(stopped,), name="stdin", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            os.close(self._stop)  # what is typed from now on is for whoever reads our terminal next
            self._stop = None
        if self._tty:
            self._loop.remove_signal_handler(signal.SIGWINCH)
        self._restore()

    def _restore(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            self._loop.remove_signal_handler(signal.SIGQUIT)
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(_STDIN, termios.TCSANOW, before)

    def _quit(self) -> None:
        """What else would end us at once, and leave the terminal as it is."""
        self._restore()
        os.kill(os.getpid(), signal.SIGQUIT)

    def _resize(self, more: int = 0) -> None:
        from ..errors import ExecutorError

        size = terminal_size()
        with contextlib.suppress(ExecutorError):
            if size is not None:
                self._session.resize(size[0], size[1] + more)

    def _pump(self, stopped: int) -> None:
        from ..errors import ExecutorError

        # Nobody need read what is typed, and the other end may be gone first.
        with contextlib.suppress(ExecutorError, RuntimeError, OSError, CancelledError):
            if self._pass_on(stopped):
                self._loop.call_soon_threadsafe(self._end)
        os.close(stopped)

    def _pass_on(self, stopped: int) -> bool:
        """What is typed. True: that has ended; False: it is left, or nobody wants it any more."""
        waiting = select.poll()
        waiting.register(_STDIN, select.POLLIN)
        waiting.register(stopped, select.POLLIN)
        while stopped not in (fd for fd, _ in waiting.poll()):
            data = os.read(_STDIN, _CHUNK)
            if not data:
                return True
            typed, leaves = self._keys.feed(data)
            if typed:
                asyncio.run_coroutine_threadsafe(self._session.write(typed), self._loop).result()
            if leaves:
                self._loop.call_soon_threadsafe(self.detached.set)
                return False
        return False

    def _end(self) -> None:
        from ..errors import ExecutorError

        with contextlib.suppress(ExecutorError):
            self._session.close_stdin()
