"""A process, told from a later one with the same number: by the boot, and by when it started.

https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, https://man7.org/linux/man-pages/man2/pidfd_open.2.html
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["boot_id", "open_process", "read_of", "start_time"]

_MOST = 1 << 16


def boot_id() -> str:
    """This boot of the kernel's own name. Blocks for a small read."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """Clock ticks after boot, field 22 of `/proc/<pid>/stat`; None where there is no such process. Blocks."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything: what counts begins behind the last one.
    return int(data.rpartition(b")")[2].split()[19])


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of that very process; None where it is gone. Blocks."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # Opened first and compared then: what the descriptor holds cannot be reused meanwhile.
    if start_time(pid) == started:
        return fd
    os.close(fd)
    return None


def read_of(folder: int, name: str) -> bytes:
    """A small file in the opened folder of a process in /proc; empty once the process is gone. Blocks."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    try:
        return os.read(file, _MOST)
    except ProcessLookupError:
        return b""
    finally:
        os.close(file)
