"""What a guest may write: an empty ext4 file system of a chosen size, which is all that it ever gets.

A sparse file, so that the host's disk holds what the job has written and no more. The host never reads it back: what a
guest made of a file system is nothing for a parser here.
"""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from ..errors import ResourcesUnavailable, StartFailed
from ..images.programs import program
from ..supervisor import tether
from ..threads import finished

__all__ = ["SMALLEST", "make_scratch"]

SMALLEST = 8 << 20  # bytes; less holds no ext4 with room in it

_BLOCK = 4096
_DEADLINE = 60.0
# No journal: what a guest's crash leaves is thrown away. Tables are made as they are used, and the guest mounts with
# `noinit_itable`, or its kernel would write all of them in the background. https://man7.org/linux/man-pages/man8/mke2fs.8.html
_FORMAT = ("-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-m", "0", "-O", "^has_journal,^resize_inode")
_OPTIONS = ("-E", "lazy_itable_init=1,nodiscard,root_owner=0:0")


async def make_scratch(path: Path, size: int, *, deadline: float = _DEADLINE) -> None:
    """Makes the file `path` of `size` bytes (rounded up to whole blocks, and to `SMALLEST`), its owner's alone.

    What stood there gives way. Takes 20 to 40 ms. Raises `EngineUnavailable` (no mke2fs), `ResourcesUnavailable`,
    `StartFailed`.
    """
    mke2fs = await asyncio.to_thread(program, "mke2fs", None)
    try:
        fd = await finished(os.close, _sparse, path, max(size, SMALLEST))
    except OSError as error:
        raise _too_large(path, size, error) from error
    try:
        argv = [mke2fs, *_FORMAT, *_OPTIONS, "/proc/self/fd/0"]
        done = await tether.run(argv, environment={}, deadline=deadline, stdin=fd)
    finally:
        os.close(fd)
    if done.code != 0:
        raise StartFailed(
            f"no disk of {size} bytes can be made for a microVM: mke2fs says: {done.complaint}",
            mend="Give another resources.disk",
        )


def _sparse(path: Path, size: int) -> int:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, -(-size // _BLOCK) * _BLOCK)
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def _too_large(path: Path, size: int, error: OSError) -> ResourcesUnavailable:
    if error.errno in (errno.EFBIG, errno.EINVAL):
        return ResourcesUnavailable(
            f"{path.parent} cannot hold a disk of {size} bytes: {error.strerror}", mend="Give a smaller resources.disk"
        )
    return ResourcesUnavailable(f"{path} cannot be made: {error.strerror}", mend="Free space below the state folder")
