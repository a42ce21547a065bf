"""The pipe that our stdout may be: whoever reads it can go away while there is nothing to write."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["reader_watched", "while_somebody_reads"]


@contextmanager
def reader_watched(fd: int, gone: Callable[[], object]) -> Iterator[None]:
    """Calls `gone` once if `fd` is the writing end of a pipe and its reader goes away (poll(2): POLLERR)."""
    if not _writes_to_pipe(fd):
        yield
        return
    loop = asyncio.get_running_loop()
    # A descriptor of its own, since a writer may wait for the same one.
    watched = os.dup(fd)

    def reader_gone() -> None:
        loop.remove_reader(watched)
        gone()

    loop.add_reader(watched, reader_gone)
    try:
        yield
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def while_somebody_reads(fd: int, work: Coroutine[Any, Any, None]) -> None:
    """Does `work`, and ends it quietly where the reader of `fd` goes away."""
    task = asyncio.create_task(work)
    try:
        with reader_watched(fd, task.cancel):
            await asyncio.wait({task})
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def _writes_to_pipe(fd: int) -> bool:
    try:
        writes_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        return writes_only and stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False  # closed: nobody reads it, and nobody went away
