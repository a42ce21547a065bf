"""The init's report: a file in the execution's folder, bound into the container (docs/protocol.md, section 3).

A job that is root could write to it, and so lie about its own end: about nothing else. Only its first bytes are read.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..supervisor import frames
from ..supervisor.said import Report

__all__ = ["Report", "read_report", "was_signalled", "withdraw_go"]

_MOST = 1 << 14
_HALT = frames.pack(frames.INIT_HALT)


def read_report(path: Path) -> Report:
    """What is there of it. Blocks."""
    report = Report()
    try:
        with path.open("rb") as file:
            report.take(file.read(_MOST))
    except FileNotFoundError:
        pass
    return report


def withdraw_go(path: Path) -> bool:
    """Sees to it that the init of that report lets no job run. False: it was born before. Blocks.

    Both append, one after the other, and then look who was first: https://man7.org/linux/man-pages/man2/open.2.html,
    O_APPEND.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        os.write(fd, _HALT)
        return os.pread(fd, len(_HALT), 0) == _HALT
    finally:
        os.close(fd)


def was_signalled(folder: Path) -> bool:
    """Whether anybody sent the job a signal through us. Blocks."""
    return (folder / "signalled").exists()
