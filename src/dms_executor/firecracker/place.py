"""Where a Firecracker runs: a folder of its own with all its machine's files, its root where it is jailed.

Every name that it is told is one of this folder's. Disks are further names of the execution's own (`microvm/drives`);
what lies in our cache, kernel and initrd, as well.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ..microvm.holes import copy_data
from ..microvm.launch import readable

__all__ = ["API", "CONFIG", "LOG", "METADATA", "VSOCK", "Place", "api_of", "clear_places"]

API, CONFIG, LOG, METADATA, VSOCK = "api.sock", "machine.json", "log", "metadata.json", "vsock"
_JAIL, _RUN, _ROOT = "jail", "run", "root"


class Place:
    """`folder`: for the user `owner`, the VM's own. `base`: below which the jailer finds it by `name`, told by
    `program`; without a program there is no jailer.
    """

    def __init__(self, disks: Path, name: str, owner: int, program: str | None) -> None:
        self._owner = owner
        self.name = name
        self.base = disks / _JAIL
        # As the jailer names it: https://github.com/firecracker-microvm/firecracker/blob/main/docs/jailer.md
        jail = disks / _JAIL / Path(program).resolve().name / name / _ROOT if program is not None else None
        self.folder = disks / _RUN / name if jail is None else jail
        self.folder.mkdir(mode=0o700, parents=True)
        os.chown(self.folder, owner, owner)

    def write(self, name: str, data: bytes) -> Path:
        """A file of its own; gives its name in the folder."""
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            os.fchown(fd, self._owner, self._owner)
            file.write(data)
        return Path(name)

    def lend(self, path: Path, name: str) -> Path:
        """What lies in our cache, and is read by many: of another file system a copy."""
        fd = readable(os.fspath(path))
        try:
            os.link(path, self.folder / name)
            return Path(name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self.copy(fd, name)
        finally:
            os.close(fd)

    def give(self, path: Path, name: str) -> Path:
        """What this machine alone writes to."""
        os.chown(path, self._owner, self._owner)
        os.link(path, self.folder / name)
        return Path(name)

    def copy(self, fd: int, name: str) -> Path:
        """A file of the user's, with its holes; `fd` may be an O_PATH one."""
        target = self.write(name, b"")
        fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(self.folder / name, "r+b") as file:
                copy_data(fd, file.fileno())
        finally:
            os.close(fd)
        return target


def clear_places(disks: Path) -> None:
    """What a launch that was broken off left beside these disks. Blocks."""
    for name in (_JAIL, _RUN):
        shutil.rmtree(disks / name, ignore_errors=True)


def api_of(disks: Path) -> Path:
    """Its API's socket, wherever the Firecracker of these disks runs: the last one that was made. Blocks."""
    made = []
    for pattern in (f"{_JAIL}/*/*/{_ROOT}/{API}", f"{_RUN}/*/{API}"):
        made += [(path.lstat().st_ctime_ns, path) for path in disks.glob(pattern)]
    return max(made)[1] if made else disks / _RUN / API
