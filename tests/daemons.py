"""The daemons of the engines that have one, by the engine's name; and an image that none of them ever gets."""

from __future__ import annotations

import socket
from typing import Any

from . import dockerd, podmand
from .daemon import Session

__all__ = ["SESSIONS", "end_sessions", "slow_image"]

SESSIONS: dict[str, Session[Any]] = {"docker": dockerd.SESSION, "podman": podmand.SESSION}
_silent: list[socket.socket] = []


def slow_image() -> str:
    """An image whose registry takes connections, and never answers."""
    if not _silent:
        _silent.append(socket.create_server(("127.0.0.1", 0), backlog=64))
    return f"127.0.0.1:{_silent[0].getsockname()[1]}/slow:latest"


def end_sessions() -> None:
    """Ends all that the session has started."""
    for session in SESSIONS.values():
        session.end()
    while _silent:
        _silent.pop().close()
