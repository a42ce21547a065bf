"""Provision scripts: what the job's init is given to run before the job (docs/protocol.md, section 3).

They go to it in memory and are written to a tmpfs of the job's own, so that no file of the host ever holds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..images.users import User
from ..scripts import encoded_scripts

__all__ = ["FOLDER", "script_mount", "scripts_memory"]

FOLDER = "/dev/.dms-executor-scripts"


def scripts_memory(scripts: Mapping[str, bytes]) -> int:
    """A descriptor that holds them, and is gone with its last holder. Blocks."""
    fd = os.memfd_create("scripts", os.MFD_CLOEXEC)
    try:
        rest = memoryview(encoded_scripts(scripts))
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def script_mount(user: User) -> dict[str, Any]:
    """The tmpfs, the user's alone."""
    options = ["nosuid", "nodev", "mode=0700", f"uid={user.uid}", f"gid={user.gid}"]
    return {"destination": FOLDER, "type": "tmpfs", "source": "tmpfs", "options": options}
