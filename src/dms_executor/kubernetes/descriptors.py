"""A caller's descriptor as a stream, with the loop's help where that can wait for it, else in a thread.

A FIFO or pipe is opened anew, so that it is ours alone that does not block. What cannot be waited for (a regular file)
does not keep anybody waiting.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from typing import Self

__all__ = ["Descriptor"]

_PIECE = 1 << 18


class Descriptor:
    """`async with Descriptor(fd, os.O_RDONLY) as file`. `fd` stays its owner's."""

    def __init__(self, fd: int, mode: int) -> None:
        self._fd = fd
        self._mode = mode
        self._own: int | None = None

    async def __aenter__(self) -> Self:
        self._own = await asyncio.to_thread(_opened, self._fd, self._mode)
        return self

    async def __aexit__(self, *_: object) -> None:
        own, self._own = self._own, None
        if own is not None:
            os.close(own)

    async def read(self) -> bytes:
        """The next of it; empty at the end. Raises `OSError`."""
        own, loop = self._own, asyncio.get_running_loop()
        if own is None:
            return await asyncio.to_thread(os.read, self._fd, _PIECE)
        while True:
            try:
                return os.read(own, _PIECE)
            except BlockingIOError:
                await _ready(lambda ready: loop.add_reader(own, ready), lambda: loop.remove_reader(own))

    async def write(self, data: bytes) -> None:
        """All of it. Raises `OSError`."""
        own, loop, left = self._own, asyncio.get_running_loop(), memoryview(data)
        while left:
            if own is None:
                left = left[await asyncio.to_thread(os.write, self._fd, left) :]
                continue
            try:
                left = left[os.write(own, left) :]
            except BlockingIOError:
                await _ready(lambda ready: loop.add_writer(own, ready), lambda: loop.remove_writer(own))


def _opened(fd: int, mode: int) -> int | None:
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # another user's
        return None


async def _ready(add: Callable[[Callable[[], None]], None], remove: Callable[[], object]) -> None:
    ready = asyncio.Event()
    add(ready.set)
    try:
        await ready.wait()
    finally:
        remove()
