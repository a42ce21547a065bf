"""`-i`: what our own stdin holds becomes the job's."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..types import ExecutionRequest

__all__ = ["LIMIT", "is_file", "with_stdin"]

LIMIT = 64 * 2**20
"""Bytes that are read into the request."""

_SMALL = 2**20


def is_file() -> bool:
    """Whether our stdin is a regular file."""
    return stat.S_ISREG(os.fstat(0).st_mode)


def with_stdin(request: ExecutionRequest) -> ExecutionRequest:
    """The request with our stdin, read to its end, as all of the job's; a big regular file is named instead.

    Raises `InvalidRequest`.
    """
    import msgspec

    path = _big_file()
    if path is not None:
        return msgspec.structs.replace(request, stdin_file=path, stdin_open=False)
    return msgspec.structs.replace(request, stdin=_read(), stdin_open=False)


def _big_file() -> str | None:
    """The path of a regular file that is worth being named, where that path leads to what our descriptor holds."""
    own = os.fstat(0)
    if not stat.S_ISREG(own.st_mode) or own.st_size <= _SMALL or os.lseek(0, 0, os.SEEK_CUR) != 0:
        return None
    path = os.readlink("/proc/self/fd/0")
    try:
        there = os.stat(path)  # noqa: PTH116, the name may hold any bytes
    except OSError:
        return None
    return path if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) and os.access(path, os.R_OK) else None


def _read() -> bytes:
    from ..errors import InvalidRequest

    pieces, size = [], 0
    while piece := os.read(0, 2**20):
        pieces.append(piece)
        size += len(piece)
        if size > LIMIT:
            raise InvalidRequest(
                f"stdin holds more than {LIMIT // 2**20} MiB",
                path="$.stdin",
                mend="Give it as a file (`-i < FILE`), or mount it with -v",
            )
    return b"".join(pieces)
