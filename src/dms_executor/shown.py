"""Which folder shows another, whatever the paths say: by a bind mount beneath it, or by being one.

Two paths lead to one file where a part of a file system is mounted twice. So a path is taken to where it lies in its
file system, which is what every mount of that file system shows.
https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

__all__ = ["shown"]


class _Spot(NamedTuple):
    """A place in a file system; `path` begins with "/" and does not end with one, but for the root's."""

    device: bytes
    path: bytes


class _Mount(NamedTuple):
    place: bytes
    spot: _Spot


class _Mounts(NamedTuple):
    """Of two at one place the one on top counts."""

    by_id: dict[int, _Mount]
    by_place: dict[bytes, _Mount]


def shown(fd: int, others: Iterable[str | os.PathLike[str]], *, beneath: bool = True) -> str | None:
    """The first of `others` that can be reached through the opened `fd`, or that holds it. Blocks.

    `beneath`: also what lies in it and what is mounted beneath it; else only whether it lies in one of `others`.
    """
    mounts = _mounts()
    place = os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))
    own = _spot(fd, place, mounts)
    seen = [own] if own is not None else []
    if beneath:
        within = place.rstrip(b"/") + b"/"
        seen += [mount.spot for mount in mounts.by_id.values() if mount.place.startswith(within)]
    for other in others:
        there = _spot_of_path(os.fsencode(other), mounts)
        for spot in seen:
            if there is None or spot.device != there.device:
                continue
            if _lies_in(spot.path, there.path) or (beneath and _lies_in(there.path, spot.path)):
                return os.fspath(other)
    return None


def _spot_of_path(path: bytes, mounts: _Mounts) -> _Spot | None:
    """By the mount next above it; nothing needs to be there yet. None in a root that is no mount."""
    real = folder = os.path.realpath(path)
    while folder not in mounts.by_place and folder != b"/":
        folder = os.path.dirname(folder)  # noqa: PTH120
    mount = mounts.by_place.get(folder)
    return _below(mount, real) if mount is not None else None


def _spot(fd: int, place: bytes, mounts: _Mounts) -> _Spot | None:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        found = re.search(rb"^mnt_id:\s*(\d+)", file.read(), re.MULTILINE)
    mount = mounts.by_id.get(int(found[1])) if found is not None else None
    return _below(mount, place) if mount is not None and _lies_in(place, mount.place) else None


def _below(mount: _Mount, path: bytes) -> _Spot:
    rest = path[len(mount.place.rstrip(b"/")) :]
    return _Spot(mount.spot.device, mount.spot.path.rstrip(b"/") + rest.rstrip(b"/") or b"/")


def _mounts() -> _Mounts:
    with open("/proc/self/mountinfo", "rb") as file:
        return _read(file.read())


@lru_cache(maxsize=1)
def _read(table: bytes) -> _Mounts:
    """The table is read anew each time, and taken apart where it has changed."""
    found = _Mounts({}, {})
    for line in table.splitlines():
        number, _, device, root, place, _ = line.split(b" ", 5)
        mount = _Mount(_plain(place), _Spot(device, _plain(root)))
        found.by_id[int(number)] = found.by_place[mount.place] = mount
    return found


def _plain(text: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text) if b"\\" in text else text


def _lies_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
