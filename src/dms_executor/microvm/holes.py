"""A file's content copied with its holes, by the kernel."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["copy_data", "copy_without_zeros"]

_MOST = 1 << 30  # bytes of one call
_BLOCK = 1 << 16


def copy_data(source: int, target: int) -> None:
    """All of the opened file `source` in the place of what the opened file `target` has. Blocks. Raises OSError."""
    size = os.fstat(source).st_size
    os.ftruncate(target, 0)
    os.ftruncate(target, size)
    for start, end in _parts(source, size):
        os.lseek(target, start, os.SEEK_SET)
        while start < end and (sent := os.sendfile(target, source, start, min(end - start, _MOST))):
            start += sent


def copy_without_zeros(source: int, target: int) -> None:
    """The same, with holes in the place of blocks that are nothing but zeros. Blocks. Raises OSError."""
    size = os.fstat(source).st_size
    nothing = bytes(_BLOCK)
    os.ftruncate(target, 0)
    os.ftruncate(target, size)
    for start, end in _parts(source, size):
        for at in range(start, end, _BLOCK):
            data = os.pread(source, min(_BLOCK, end - at), at)
            if data != nothing[: len(data)]:
                os.pwrite(target, data, at)


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
