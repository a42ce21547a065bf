"""Names in the room, the shim's private tmpfs, that more than one part must know."""

from __future__ import annotations

__all__ = ["SYSFS"]

SYSFS = "sys"
"""For a job whose user namespace may not mount one: a `/sys` of its network namespace, or the host's."""
