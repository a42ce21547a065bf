"""The pipe that our stdout may be: whoever reads it can go away while there is nothing to write."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["reader_watched"]


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


def _writes_to_pipe(fd: int) -> bool:
    try:
        writes_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        return writes_only and stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False  # closed: nobody reads it, and nobody went away
