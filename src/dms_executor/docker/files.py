"""The files in an execution's folder that a container is given, and what is noted beside them. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ..engine import Execution
from ..errors import StateUnwritable
from ..policy import reopen
from ..scripts import encoded_scripts
from ..volumes import Volumes

__all__ = [
    "CONTROL",
    "STDIN",
    "calls_of",
    "folder_of",
    "forget_signal",
    "make_files",
    "note_signal",
    "reopen_sources",
    "take_away",
    "take_input_away",
]

STDIN, CONTROL = "stdin", "control"
"""FIFOs beside where the inits call: what is typed to a job, and what its init is asked for about that."""


def folder_of(x: Execution) -> Path:
    """The engine's own folder of an execution: nobody but root comes there, whatever the files' own modes."""
    return x.folder / "docker"


def calls_of(x: Execution) -> Path:
    """Where the inits of further commands call; in the container nothing can be made there."""
    return folder_of(x) / "calls"


def make_files(x: Execution) -> None:
    """Report, input and scripts; readable and writable by every user that a job may have. Raises `StateUnwritable`."""
    folder = folder_of(x)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        calls_of(x).mkdir(mode=0o711, exist_ok=True)
        calls_of(x).chmod(0o711)
        if x.request.stdin_open or x.request.tty:
            for name in (STDIN, CONTROL):
                _make_fifo(calls_of(x) / name)
        if x.request.init:
            _write(folder / "report", b"", 0o666)
        if x.request.provision_scripts:
            _write(folder / "scripts", encoded_scripts(x.request.provision_scripts), 0o444)
        if x.request.stdin:
            _write(folder / "input", x.request.stdin, 0o444)
    except OSError as error:
        raise StateUnwritable(f"{folder} cannot be written: {error.strerror}", mend="Free space there") from error


def take_input_away(x: Execution) -> None:
    """What the init has opened by now, and may be secret."""
    for name in ("scripts", "input"):
        (folder_of(x) / name).unlink(missing_ok=True)


def note_signal(x: Execution) -> bool:
    """Remembers, for whoever finishes it, that the job is sent a signal. False: that was known before."""
    try:
        (folder_of(x) / "signalled").touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    except FileNotFoundError:  # it is over, and taken away
        return False
    return True


def forget_signal(x: Execution) -> None:
    """The signal came too late for it."""
    (folder_of(x) / "signalled").unlink(missing_ok=True)


def take_away(x: Execution) -> None:
    """All of it. Idempotent."""
    shutil.rmtree(folder_of(x), ignore_errors=True)


def reopen_sources(volumes: Volumes) -> None:
    """Looks once more whether what was granted stands there; the daemon takes text only. Raises `PolicyDenied`."""
    for volume in volumes.mounts:
        if volume.grant is not None:
            reopen(volume.grant, field=f"{volume.field}.source").close()
    if volumes.stdin is not None:
        reopen(volumes.stdin, field="$.stdin_file").close()


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)


def _make_fifo(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path)
    path.chmod(0o666)
