"""What kind of file system a folder lies on."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["filesystem_type"]


def filesystem_type(path: Path) -> str:
    """The type of the file system that `path` lies on, as /proc/self/mountinfo names it; "" where unknown.

    https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
