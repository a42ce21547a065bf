"""A file of the host's that a job could write: what the guest gives back of it becomes its content.

The file itself stays, with its owner and whoever has it open, as where it is mounted into a job; nothing that the guest
sends is unpacked beside it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import CopyFailed
from .holes import copy_data

__all__ = ["NAME", "place_for", "put_back"]

NAME = b"file"  # of the stream's one entry, and of a file in an input's image


def place_for(folder: Path) -> int:
    """A folder of ours, opened, into which the stream is unpacked. Blocks. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def put_back(place: int, granted: int, name: str) -> None:
    """What was unpacked there as the content and the permissions of the granted file. Idempotent. Blocks.

    `name`: of the file, for the error. Raises `CopyFailed`: the stream had no such file, the disk is full.
    """
    source, target = -1, -1
    try:
        source = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        target = os.open(f"/proc/self/fd/{granted}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(source)
        if not (stat.S_ISREG(found.st_mode) and stat.S_ISREG(os.fstat(target).st_mode)):
            raise CopyFailed(f"{name!r}: what the guest wrote is no file", errno=errno.EBADMSG)
        copy_data(source, target)
        os.fchmod(target, stat.S_IMODE(found.st_mode) & 0o777)
    except OSError as error:
        raise CopyFailed(
            f"{name!r} cannot be written: {error.strerror}", errno=error.errno or 0, mend="Free space there"
        ) from error
    finally:
        for fd in (source, target):
            if fd >= 0:
                os.close(fd)
