"""The state folder itself: made, checked, and refused where it cannot be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import StateError, StateUnwritable
from ..filesystems import filesystem_type
from .files import os_error, put

__all__ = ["EXECUTIONS", "OWNERS", "prepare_folder", "state_folder_default"]

EXECUTIONS = "executions"
OWNERS = "owners"
_IDENTITY = "executor_id"

# SQLite's locks and renames cannot be relied on there: https://sqlite.org/faq.html#q5
_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "lustre",
)


def state_folder_default() -> Path:
    """Where state lives unless said: DMS_EXECUTOR_STATE_DIR, else /var/lib as root, else the XDG state folder."""
    chosen = os.environ.get("DMS_EXECUTOR_STATE_DIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/dms-executor")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dms-executor"


def prepare_folder(path: Path) -> str:
    """Makes the folder where absent, checks it, and gives its executor id. Raises `StateError`, `StateUnwritable`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(path)
        for name in (EXECUTIONS, OWNERS):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        return _identity(path)
    except OSError as error:
        raise os_error(error, path) from error


def _check(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a folder", mend="Name a folder")
    if found.st_uid != os.geteuid():
        raise StateUnwritable(
            f"{path} belongs to uid {found.st_uid}, this process has uid {os.geteuid()}",
            mend="Use a folder of your own, or run as its owner",
        )
    kind = filesystem_type(path)
    if kind in _NETWORK:
        raise StateUnwritable(f"{path} lies on a network file system ({kind})", mend="Use a folder on a local disk")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def _identity(path: Path) -> str:
    file = path / _IDENTITY
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    candidate = os.urandom(16).hex()
    scratch = path / f".{_IDENTITY}.{candidate}"
    put(path, scratch.name, candidate.encode(), durable=True)
    try:
        # link(2) fails where another process was first, rename(2) would not.
        os.link(scratch, file)
    except FileExistsError:
        return file.read_text().strip()
    finally:
        scratch.unlink(missing_ok=True)
    return candidate
