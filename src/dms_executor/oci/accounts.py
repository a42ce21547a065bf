"""A job's `/etc/passwd` and `/etc/group` that would hold the runtime.

runc opens both, in the container. A FIFO in their place holds it until the shim's limit of a start, and meanwhile a
turn among those that start at once: an image or a volume like that is refused before.
"""

from __future__ import annotations

import os
import stat

from ..beneath import open_in_root
from ..errors import StartFailed
from ..policy import reopen
from ..volumes import Volumes

__all__ = ["check_accounts"]


def check_accounts(root: int, volumes: Volumes) -> None:
    """In the opened `root` with `volumes` on it. Raises `StartFailed`."""
    for path in ("/etc/passwd", "/etc/group"):
        mode = _mode(root, path.lstrip("/"))
        for mount in volumes.mounts:  # parents first: the last one that holds it counts
            if mount.grant is not None and (path == mount.target or path.startswith(mount.target + "/")):
                with reopen(mount.grant, field=f"{mount.field}.source") as granted:
                    inner = path.removeprefix(mount.target).lstrip("/")
                    mode = _mode(granted.fd, inner) if inner else os.fstat(granted.fd).st_mode
        if stat.S_ISFIFO(mode):
            raise StartFailed(f"{path} of the job is a FIFO, which would hold its runtime", mend="Make it a file")


def _mode(folder: int, path: str) -> int:
    try:
        fd = open_in_root(folder, os.fsencode(path))
    except OSError:
        return 0
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)
