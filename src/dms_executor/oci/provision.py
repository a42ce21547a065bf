"""Provision scripts: what the job's init is given to run before the job (docs/protocol.md, section 3).

They go to it in memory and are written to a tmpfs of the job's own, so that no file of the host ever holds them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequest
from ..types import ExecutionRequest
from .users import User

__all__ = ["FOLDER", "check_scripts", "script_mount", "scripts_memory"]

FOLDER = "/dev/.dms-executor-scripts"


def check_scripts(request: ExecutionRequest) -> None:
    """Raises `InvalidRequest`."""
    if request.provision_scripts and not request.init:
        raise InvalidRequest(
            "provision scripts are run by the executor's own init",
            path="$.provision_scripts",
            mend="Leave init out, or the scripts",
        )


def scripts_memory(scripts: Mapping[str, bytes]) -> int:
    """A descriptor that holds them in the order of their names, and is gone with its last holder. Blocks."""
    fd = os.memfd_create("scripts", os.MFD_CLOEXEC)
    try:
        for name in sorted(scripts, key=os.fsencode):
            encoded, data = os.fsencode(name), scripts[name]
            rest = memoryview(struct.pack("<II", len(encoded), len(data)) + encoded + data)
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
