"""Folders of a root tree whose owner has no id in an ordinary user's namespace, made anew in the writable layer.

The kernel copies no file up whose owner it cannot name (EOVERFLOW), so in such a folder nothing could be made: neither
what the runtime mounts on nor a job's own file. With a folder of the layer over it, all of it is seen and files can be
made; what it holds cannot be changed. Only a `rootfs:` folder has such owners: what the unpacking makes is the user's.
https://docs.kernel.org/filesystems/overlayfs.html
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

__all__ = ["shadow"]

_DEPTH = 2  # /tmp, /etc and /var/tmp, but not all of /usr
_MOST = 512
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def shadow(upper: Path, lower: int, knows: Callable[[os.stat_result], bool]) -> None:
    """Makes the uppermost folders of the opened `lower` whose owners nobody knows in `upper`. Blocks."""
    left = _MOST
    waiting = [""]
    while waiting:
        path = waiting.pop(0)
        for name, status in _folders(lower, path):
            inner = f"{path}/{name}" if path else name
            if knows(status):
                continue
            left -= 1
            if left < 0:
                return
            made = upper / inner
            made.mkdir(exist_ok=True)
            made.chmod(stat.S_IMODE(status.st_mode) & 0o1777)
            if inner.count("/") + 1 < _DEPTH:
                waiting.append(inner)


def _folders(lower: int, path: str) -> list[tuple[str, os.stat_result]]:
    try:
        fd = os.open(path or ".", _READ, dir_fd=lower)
    except OSError:
        return []  # not for this user's eyes
    try:
        found = [(name, os.stat(name, dir_fd=fd, follow_symlinks=False)) for name in os.listdir(fd)]
    finally:
        os.close(fd)
    return [(name, status) for name, status in found if stat.S_ISDIR(status.st_mode)]
