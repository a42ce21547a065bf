"""The ends of a session's streams that its client holds, read and written without a thread and within bounds.

What a process has written waits in the kernel's pipe until it is asked for, so that a slow reader slows the process and
nobody else, and nothing piles up here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeVar

from ..errors import ExecutionNotRunning
from ..types import Stream

__all__ = ["Pipes"]

T = TypeVar("T")
_CHUNK = 64 << 10
_END_OF_INPUT = b"\x04"  # Ctrl-D, by which a terminal says it


class Pipes:
    """`stdin` and the outputs by descriptor, all non-blocking; they are this object's to close.

    `drain`: seconds that outputs may stay open after `ended`.
    """

    def __init__(self, stdin: int | None, outputs: dict[int, Stream], *, drain: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._stdin = stdin
        self._outputs = outputs
        self._drain = drain
        self._until: float | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._writing = asyncio.Lock()
        self._turn = 0
        self.terminal: int | None = None
        """The master of the terminal that has taken the place of the three streams."""

    def become_terminal(self, master: int) -> None:
        """All streams are that terminal from now on."""
        os.set_blocking(master, False)
        self._close_input()
        for fd in list(self._outputs):
            self._close_output(fd)
        self.terminal = self._stdin = master
        self._outputs = {master: "stdout"}

    def ended(self) -> None:
        """The process is gone: what somebody else holds open counts only as long as it goes on to bring something."""
        self._until = self._loop.time() + self._drain
        self._wake()

    async def read(self) -> tuple[Stream, bytes] | None:
        """The next piece of any output, in turn; None at the end."""
        while self._outputs:
            for fd in self._in_turn():
                data = self._take(fd)
                if data:
                    return self._outputs[fd], data
            if self._outputs and not await self._readable():
                return None
        return None

    def read_now(self) -> dict[Stream, bytes]:
        """What is there, 64 KiB each at most."""
        return {stream: self._take(fd) or b"" for fd, stream in list(self._outputs.items())}

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where nobody reads it any more."""
        async with self._writing:
            left = memoryview(data)
            while left:
                if self._stdin is None:
                    raise ExecutionNotRunning("its input is closed")
                try:
                    left = left[os.write(self._stdin, left[:_CHUNK]) :]
                except BlockingIOError:
                    await self._when(self._loop.add_writer, self._loop.remove_writer, [self._stdin])
                except OSError as error:
                    self._close_input()
                    raise ExecutionNotRunning("nobody reads its input any more") from error

    def close_stdin(self) -> None:
        """End of input. Idempotent."""
        if self.terminal is None:
            self._close_input()
            self._wake()
        elif self._stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self._stdin, _END_OF_INPUT)

    def close(self) -> None:
        """Idempotent; who waits finds the end."""
        self._close_input()
        for fd in list(self._outputs):
            self._close_output(fd)
        self.terminal = None
        self._wake()

    def _in_turn(self) -> list[int]:
        """So that a stream that never dries up does not keep the other from being read."""
        self._turn += 1
        fds = list(self._outputs)
        return fds if self._turn % 2 else fds[::-1]

    def _take(self, fd: int) -> bytes | None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal ends once nobody holds it
                raise
            data = b""
        if not data:
            self._close_output(fd)
        return data

    async def _readable(self) -> bool:
        """False: the time is up."""
        if self._until is not None:
            left = self._until - self._loop.time()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._when(self._loop.add_reader, self._loop.remove_reader, list(self._outputs))
            return True
        await self._when(self._loop.add_reader, self._loop.remove_reader, list(self._outputs))
        return True

    async def _when(
        self, add: Callable[[int, Callable[[], None]], T], remove: Callable[[int], bool], fds: list[int]
    ) -> None:
        """Waits until one of them is ready, or something else happens."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        for fd in fds:
            add(fd, lambda: _resolve(waiter))
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            for fd in fds:
                if fd == self._stdin or fd in self._outputs:
                    remove(fd)

    def _wake(self) -> None:
        for waiter in self._waiters:
            _resolve(waiter)

    def _close_input(self) -> None:
        fd, self._stdin = self._stdin, None
        if fd is not None:
            self._loop.remove_writer(fd)
            if fd not in self._outputs:
                os.close(fd)

    def _close_output(self, fd: int) -> None:
        del self._outputs[fd]
        self._loop.remove_reader(fd)
        if fd == self._stdin:
            return  # a terminal's is closed with its input
        os.close(fd)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
