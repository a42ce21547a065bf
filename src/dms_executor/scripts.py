"""Provision scripts: what may be asked, and how the job's init is given them (docs/protocol.md, section 3)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from .errors import InvalidRequest
from .types import ExecutionRequest

__all__ = ["check_scripts", "encoded_scripts"]


def check_scripts(request: ExecutionRequest) -> None:
    """Raises `InvalidRequest`."""
    if request.provision_scripts and not request.init:
        raise InvalidRequest(
            "provision scripts are run by the executor's own init",
            path="$.provision_scripts",
            mend="Leave init out, or the scripts",
        )


def encoded_scripts(scripts: Mapping[str, bytes]) -> bytes:
    """All of them, in the order of their names."""
    parts = []
    for name in sorted(scripts, key=os.fsencode):
        encoded, data = os.fsencode(name), scripts[name]
        parts.append(struct.pack("<II", len(encoded), len(data)) + encoded + data)
    return b"".join(parts)
