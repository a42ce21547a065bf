"""How a guest's outputs come back: tar streams on a raw disk, unpacked by our own program beneath what was granted.

The agent writes the streams when the job has ended, syncs, and writes the first block last: without it the disk holds
nothing that is whole. The disk's size is the cap; nobody needs to be there while the guest writes; what is on it can be
unpacked again after a crash. No file system of a guest's making is ever looked at on the host.

block 0 (4096 bytes, numbers little-endian):
    0   8 bytes  "dmsouts1"
    8   u32      how many streams, at most 500
    12  u32      0
    16  u64 each the length of each stream in bytes
then the streams, in the order of the request's outputs, each begun at a multiple of 4096.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import CopyFailed, ResourcesUnavailable
from ..supervisor import files
from ..threads import finished

__all__ = ["BLOCK", "MAGIC", "MOST", "make_device", "unpack_outputs"]

MAGIC = b"dmsouts1"
BLOCK = 4096
MOST = 500

_DEADLINE = 600.0
_SLACK = 64 << 20  # bytes for what a tar has beside its files' data, on top of a sixteenth of it
_PART = 1 << 20


async def make_device(path: Path, size: int) -> None:
    """A sparse file that takes the outputs of a job which may write `size` bytes. What stood there gives way.

    Raises `ResourcesUnavailable`.
    """
    try:
        await asyncio.to_thread(_make, path, BLOCK + -(-(size + size // 16 + _SLACK) // BLOCK) * BLOCK)
    except OSError as error:
        raise ResourcesUnavailable(
            f"{path} cannot be made: {error.strerror}", mend="Free space below the state folder, or give a smaller disk"
        ) from error


async def unpack_outputs(
    device: Path,
    folders: Sequence[int],
    *,
    keep_owner: bool,
    only: Mapping[int, bytes] | None = None,
    deadline: float = _DEADLINE,
) -> list[str]:
    """Unpacks each stream into the opened folder of its number; gives what is to be told (device nodes left out).

    What has the same name gives way; what the job has removed stays. Without set-user-id bits. Idempotent. `only`: the
    one entry that a stream of that number may have. `deadline` in seconds, of all together. Raises `CopyFailed`: the
    guest ended before it had written them, the streams are damaged, the disk is full.
    """
    fd = await finished(os.close, os.open, device, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        places = await asyncio.to_thread(_places, fd, len(folders))
        told: list[str] = []
        async with asyncio.timeout(deadline):
            for number, (folder, place) in enumerate(zip(folders, places, strict=True)):
                told += await _unpack(fd, place, folder, keep_owner, (only or {}).get(number))
        return told
    except TimeoutError:
        raise CopyFailed(
            f"the outputs were not unpacked within {deadline:g} s", errno=errno.ETIMEDOUT, mend="Write less to them"
        ) from None
    finally:
        os.close(fd)


async def _unpack(fd: int, stream: tuple[int, int], folder: int, keep_owner: bool, only: bytes | None) -> list[str]:
    source, sink = os.pipe2(os.O_CLOEXEC)
    feeding = asyncio.ensure_future(asyncio.to_thread(_feed, fd, *stream, sink))
    try:
        place = b"/proc/%d/fd/%d" % (os.getpid(), folder)
        return await files.unpack(place, source, only=only, keep_owner=keep_owner, drop_special=True)
    finally:
        # Who still writes to it ends now; the descriptors are its own until then.
        os.close(source)
        await asyncio.wait([feeding])


def _feed(fd: int, begin: int, length: int, sink: int) -> None:
    try:
        # The reader has ended: it says why itself.
        with suppress(BrokenPipeError):
            while length > 0 and (done := os.sendfile(sink, fd, begin, min(length, _PART))) > 0:
                begin, length = begin + done, length - done
    finally:
        os.close(sink)


def _places(fd: int, count: int) -> list[tuple[int, int]]:
    """Where each stream begins, and its length. The guest wrote that: nothing outside of the disk is believed."""
    head = os.pread(fd, BLOCK, 0)
    if head[:8] != MAGIC:
        raise CopyFailed(
            "the guest ended before it had written its outputs",
            errno=errno.ENODATA,
            mend="They are written when the job has ended: give a stop more grace",
        )
    said, _ = struct.unpack_from("<II", head, 8)
    lengths = struct.unpack_from(f"<{count}Q", head, 16) if said == count <= MOST else ()
    places, at = [], BLOCK
    for length in lengths:
        places.append((at, length))
        at += -(-length // BLOCK) * BLOCK
    if said != count or at > os.fstat(fd).st_size:
        raise CopyFailed("what the guest wrote as its outputs is damaged", errno=errno.EBADMSG)
    return places


def _make(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
