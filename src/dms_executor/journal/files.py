"""The records of an execution that stand as files in its folder, each renamed into place before its row."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..errors import ResourcesUnavailable, StateUnwritable

__all__ = [
    "HANDLE",
    "INTENT",
    "MARKS",
    "REQUEST",
    "RESULT",
    "SECRETS",
    "STARTED",
    "STDIN",
    "make_folder",
    "os_error",
    "put",
    "read",
    "sweep",
]

REQUEST = "request.json"
HANDLE = "handle.json"
INTENT = "intent.json"
RESULT = "result.json"
SECRETS = "secrets.json"
STARTED = "started.json"
MARKS = "marks.json"
STDIN = "stdin"


def make_folder(path: Path) -> None:
    """Makes the folder of an execution, mode 0700. Raises `StateUnwritable`."""
    try:
        path.mkdir(mode=0o700, parents=False, exist_ok=True)
    except OSError as error:
        raise os_error(error, path) from error


def put(folder: Path, name: str, data: bytes, *, durable: bool) -> None:
    """Writes `folder/name` whole or not at all, mode 0600. Raises `StateUnwritable`."""
    target = folder / name
    scratch = folder / f".{name}.{os.getpid()}"
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        scratch.rename(target)
        if durable:
            _sync_folder(folder)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise os_error(error, target) from error


def read(folder: Path, name: str) -> bytes | None:
    """The bytes of `folder/name`, None where it is not there."""
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def sweep(folder: Path) -> None:
    """Unlinks what a writer that was killed in the middle of `put` left, and secrets, which nobody needs any more."""
    (folder / SECRETS).unlink(missing_ok=True)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        writer = name.rpartition(".")[2]
        if name.startswith(".") and writer.isdecimal() and not Path(f"/proc/{writer}").exists():
            (folder / name).unlink(missing_ok=True)


def os_error(error: OSError, path: Path) -> StateUnwritable | ResourcesUnavailable:
    """An error of the state folder's file system as ours."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourcesUnavailable(
            "this process is out of file descriptors",
            mend="Raise the limit: `ulimit -n 65536`, LimitNOFILE= in systemd",
        )
    return StateUnwritable(
        f"{path} cannot be written: {error.strerror}", mend="Free some space, make it writable, or use another folder"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
