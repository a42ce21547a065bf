"""What comes beside the bytes of a Unix socket: who sent them, and descriptors (unix(7))."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

__all__ = ["CREDENTIALS", "is_master", "sent_along"]

CREDENTIALS = struct.Struct("iii")
_TIOCGPTN = 0x80045430  # ioctl_tty(2); only a terminal's master answers


def sent_along(control: list[tuple[int, int, bytes]]) -> tuple[int, int | None]:
    """The sender's pid and a descriptor."""
    pid, master = 0, None
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = CREDENTIALS.unpack_from(data)[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array.array("i")
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
            for fd in received:
                if master is not None:
                    os.close(master)
                master = fd
    return pid, master


def is_master(fd: int) -> bool:
    """The init lives among the job's processes, and what it opened is what they left at that place."""
    try:
        fcntl.ioctl(fd, _TIOCGPTN, b"\0\0\0\0")
    except OSError:
        return False
    return True
