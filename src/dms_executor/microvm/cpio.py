"""A cpio archive as the kernel unpacks it into its first root.

https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

import msgspec

__all__ = ["Entry", "archive", "device", "file", "folder"]

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class Entry(msgspec.Struct, frozen=True):
    """`name`: without a leading slash. `mode`: type and permissions. `device`: major and minor of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | mode, data)


def device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive in pieces. The same entries give the same bytes: all is root's, of the epoch, on no device."""
    total = 0
    for inode, entry in enumerate([*entries, Entry(_TRAILER, 0)], 1):
        for piece in _pieces(entry, 0 if entry.name == _TRAILER else inode):
            total += len(piece)
            yield piece
    yield bytes(-total % 512)


def _pieces(entry: Entry, inode: int) -> Iterator[bytes]:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    yield head + bytes(-len(head) % 4)
    if entry.data:
        yield entry.data
        yield bytes(-len(entry.data) % 4)
