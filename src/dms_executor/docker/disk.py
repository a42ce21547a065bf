"""Whether the daemon's storage can hold a container's writable layer to a size (`StorageOpt`).

overlay2 does so only on XFS with project quotas, which is for the mount's options to say:
https://docs.docker.com/reference/cli/docker/container/run/#storage-opt
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["can_limit_disk"]

_OWN_QUOTAS = ("btrfs", "zfs")
_QUOTA = {"prjquota", "pquota"}
MOUNTS = "/proc/self/mountinfo"


def can_limit_disk(driver: str, status: Sequence[Sequence[str]], folder: str) -> bool:
    """`status`: the driver's word of itself, `folder`: where the daemon keeps its data. Blocks."""
    if driver in _OWN_QUOTAS:
        return True
    backing = next((pair[1] for pair in status if len(pair) == 2 and pair[0] == "Backing Filesystem"), "")
    return driver == "overlay2" and backing == "xfs" and bool(_QUOTA & _options(folder))


def _options(folder: str) -> set[str]:
    """The file system's own of the mount that holds the folder. Its form: proc_pid_mountinfo(5)."""
    best, found = "", ""
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            words = line.split()
            place = words[4].encode().decode("unicode_escape") if "\\" in words[4] else words[4]
            inside = folder == place or folder.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best):  # a later mount covers an earlier one
                best, found = place, words[-1]
    return set(found.split(","))
