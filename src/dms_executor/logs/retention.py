"""How large a log is, and dropping one. Blocking."""

from __future__ import annotations

import os
from pathlib import Path

from .segments import log_folder

__all__ = ["drop_log", "log_size"]


def log_size(folder: Path) -> int:
    """Bytes of all files of `folder/log`; 0 where there is none."""
    size = 0
    try:
        with os.scandir(log_folder(folder)) as files:
            for file in files:
                size += _file_size(file)
    except FileNotFoundError:
        return 0
    return size


def _file_size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # a segment that the writer unlinked meanwhile
        return 0


def drop_log(folder: Path) -> int:
    """Removes `folder/log` and gives back the bytes freed. Idempotent; symlinks are not followed.

    The log must have no writer any more. Who is reading it gets ResultExpired once what it had opened is read.
    """
    log = log_folder(folder)
    freed = log_size(folder)
    try:
        for name in sorted(os.listdir(log)):
            (log / name).unlink(missing_ok=True)
        log.rmdir()
    except FileNotFoundError:
        return 0
    return freed
