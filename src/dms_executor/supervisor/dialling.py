"""The way to a shim's control socket."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from ..errors import EngineUnreachable
from . import spawning

__all__ = ["dial"]

_ANSWER = 10.0  # seconds for a shim to take a connection


def dial(folder: Path) -> socket.socket | None:
    """A connection to the shim of the execution in `folder`, None where nobody listens. Blocks.

    By descriptor, since a socket's path may have 107 bytes only.
    """
    try:
        at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    connection = None
    try:
        connection = socket.socket(socket.AF_UNIX)
        # Not settimeout(), under which a full backlog is an error at once and not waited for (unix(7), connect).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_ANSWER), 0))
        connection.connect(f"/proc/self/fd/{at}/control")
        connection.setblocking(False)
        return connection
    except OSError as error:
        if connection is not None:
            connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return None
        if isinstance(error, TimeoutError | BlockingIOError):
            raise EngineUnreachable(f"the shim in {folder} does not take connections") from error
        raise spawning.mapped(error, f"cannot connect to the shim in {folder}") from error
    finally:
        os.close(at)
