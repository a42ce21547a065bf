"""A job that outlived its shim where there is no cgroup to find it by: its processes see files of its own folder.

The token, which is random, stands in the path of what was mounted for the job, the network files of its bundle.
https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

__all__ = ["kill_strays"]

_PATIENCE = 2000  # ms for the killed to be gone


def kill_strays(token: str) -> None:
    """Kills every process that has something of that execution mounted, and waits for it. Blocks."""
    poll = select.poll()
    killed: list[int] = []
    try:
        for name in os.listdir("/proc"):
            fd = _opened(int(name), token) if name.isdecimal() and int(name) != os.getpid() else None
            if fd is not None:
                killed.append(fd)
                _kill(fd)
        for fd in killed:
            poll.register(fd, select.POLLIN)
            poll.poll(_PATIENCE)
            poll.unregister(fd)
    finally:
        for fd in killed:
            os.close(fd)


def _kill(fd: int) -> None:
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone; or a namespace's that somebody else made


def _opened(pid: int, token: str) -> int | None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # Opened first: what the descriptor holds is what is looked at.
        if f"/{token}/".encode() in Path(f"/proc/{pid}/mountinfo").read_bytes():
            return fd
    except OSError:
        pass  # ended meanwhile, or another user's
    os.close(fd)
    return None
