"""A file's content copied with its holes, by the kernel."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["copy_data"]

_MOST = 1 << 30  # bytes of one call


def copy_data(source: int, target: int) -> None:
    """All of the opened file `source` in the place of what the opened file `target` has. Blocks. Raises OSError."""
    size = os.fstat(source).st_size
    os.ftruncate(target, 0)
    os.ftruncate(target, size)
    for start, end in _parts(source, size):
        os.lseek(target, start, os.SEEK_SET)
        while start < end and (sent := os.sendfile(target, source, start, min(end - start, _MOST))):
            start += sent


def _parts(fd: int, size: int) -> list[tuple[int, int]]:
    """Where there is data, as lseek(2) tells."""
    found: list[tuple[int, int]] = []
    at = 0
    with suppress(OSError):  # ENXIO: none from here on
        while at < size:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    return found
