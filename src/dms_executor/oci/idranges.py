"""A range of 65,536 ids of the host for each job: no two jobs that live share one, whoever started them.

A range is a file in a folder of the whole host, and its holder is who has the file's lock: first the caller, then the
shim, which gets the opened file and keeps it to its end. So the kernel gives a range free, however its holder ends.
The file names the job's cgroup: a range is not given anew while there are processes in it, should the shim be killed
and its job live on. https://man7.org/linux/man-pages/man2/flock.2.html
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable

import msgspec

from ..errors import ResourcesUnavailable

__all__ = ["COUNT", "FIRST", "FOLDER", "RANGES", "IdRange", "allocate", "release", "sweep"]

FOLDER = "/run/dms-executor/ids"
COUNT = 65536
# Neither users nor containers of others have ids here: https://systemd.io/UIDS-GIDS/
FIRST = 0x70000000
RANGES = 4094


class IdRange(msgspec.Struct, frozen=True, kw_only=True):
    """Ids 0 to 65,535 of the job are those from `first` on. `fd` holds it; whoever has a copy does."""

    first: int
    fd: int


def allocate(group: str, is_alive: Callable[[str], bool]) -> IdRange:
    """A range for the job in the cgroup `group`. Raises `ResourcesUnavailable`, OSError. Blocks."""
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)  # noqa: PTH103
    # From anywhere: two views of a host that do not share the folder seldom meet, and few files are tried.
    start = random.randrange(RANGES)
    for step in range(RANGES):
        first = FIRST + (start + step) % RANGES * COUNT
        fd = _locked(first, os.O_CREAT)
        if fd is None:
            continue
        owner = _owner(fd)
        if owner and owner != group and is_alive(owner):
            os.close(fd)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, group.encode(), 0)
        return IdRange(first=first, fd=fd)
    raise ResourcesUnavailable("all ranges of ids are taken", mend=f"At most {RANGES} jobs run at once on a host")


def release(group: str, first: int | None) -> None:
    """Takes the range's file away once nobody holds it; `first` None: whichever is of that cgroup. Blocks."""
    _take_away([first] if first is not None else _given(), lambda owner: owner == group)


def sweep(is_alive: Callable[[str], bool]) -> int:
    """Takes away the files of ranges that nobody holds and whose job is gone, whoever made them; how many. Blocks.

    What is left by an executor that vanished, or whose state folder was removed by hand: no record names it any more.
    """
    return _take_away(_given(), lambda owner: not is_alive(owner))


def _given() -> list[int]:
    try:
        return [int(name) for name in os.listdir(FOLDER) if name.isdecimal()]
    except FileNotFoundError:
        return []


def _take_away(ranges: list[int], may_go: Callable[[str], bool]) -> int:
    gone = 0
    for first in ranges:
        fd = _locked(first, 0)
        if fd is None:
            continue
        try:
            owner = _owner(fd)
            if not owner or may_go(owner):
                os.unlink(_path(first))  # noqa: PTH108
                gone += 1
        finally:
            os.close(fd)
    return gone


def _path(first: int) -> str:
    return f"{FOLDER}/{first}"


def _locked(first: int, flags: int) -> int | None:
    """The file, opened and locked; None where another has it or it is going away."""
    try:
        fd = os.open(_path(first), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:  # its former holder took it away before we had the lock
        os.close(fd)
        return None
    return fd


def _owner(fd: int) -> str:
    return os.pread(fd, 4096, 0).decode("utf-8", "replace")
