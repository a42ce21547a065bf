"""What a job is handed with its go: secrets, stdin, provision scripts, by the very exec that lets it go.

So nothing of it is ever an object of the cluster's, which its database would keep and others may read: it lies in a
folder in the pod's memory for the moment between the two (docs/protocol.md, section 3).
"""

from __future__ import annotations

import struct

from ..errors import InvalidRequest
from ..scripts import encoded_scripts
from ..types import ExecutionRequest

__all__ = ["MOST", "check_handed", "handed", "is_handed"]

MOST = 16 << 20
"""Bytes of all of it: it lies in the memory that the job may use."""


def is_handed(request: ExecutionRequest) -> bool:
    """Whether there is anything."""
    return bool(request.secret_environment or request.stdin or request.provision_scripts or request.stdin_file)


def check_handed(request: ExecutionRequest) -> None:
    """Raises `InvalidRequest`."""
    size = len(handed(request))
    if size > MOST:
        raise InvalidRequest(
            f"stdin, provision_scripts and secret_environment have {size} bytes together, more than {MOST}",
            path="$.stdin" if len(request.stdin) > MOST // 2 else "$.provision_scripts",
            mend="Let the job fetch what is large",
        )


def handed(request: ExecutionRequest, stdin: bytes | None = None) -> bytes:
    """As `dms-init -g` reads it: u32 length of a name, u32 length of its content, both; a name of no length ends it.

    `stdin`: the content of `stdin_file`.
    """
    files = {
        "environment": "".join(f"{name}={value}\0" for name, value in request.secret_environment.items()).encode(),
        "input": stdin if stdin is not None else request.stdin,
        "scripts": encoded_scripts(request.provision_scripts) if request.provision_scripts else b"",
    }
    parts = [_part(name.encode(), data) for name, data in files.items() if data]
    return b"".join([*parts, _part(b"", b"")])


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack("<II", len(name), len(data)) + name + data
