"""Connections that notice when nobody is at their other end: a job may be silent for hours, as is a lost one."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

__all__ = ["kept_alive"]

_IDLE = 30  # seconds of silence before the kernel asks
_BETWEEN = 10
_TIMES = 3
_UNANSWERED = 60_000  # milliseconds that what was sent may stay unacknowledged


def kept_alive(address: Sequence[Any]) -> socket.socket:
    """For one of `getaddrinfo`'s answers; not connected yet. https://man7.org/linux/man-pages/man7/tcp.7.html"""
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TIMES)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED)
    except BaseException:
        made.close()
        raise
    return made
