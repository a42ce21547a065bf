"""What `prepare` decided, as it stands in `Prepared.state`: enough to create, find and undo."""

from __future__ import annotations

from typing import Any

import msgspec

from ..images import ImageConfig
from ..limits import Limits
from ..policy import Grant
from ..typed import known
from ..volumes import Volumes

__all__ = ["FOLDER", "Plan"]

FOLDER = "vm"  # in the execution's folder: the disks, gone with the VM


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The root is a granted folder (`root`) or an image of the cache (`digest`). `kernel` and `initrd`: their files."""

    image: ImageConfig
    kernel: str
    initrd: str
    root: Grant | None = None
    digest: str | None = None
    volumes: Volumes = Volumes()
    limits: Limits = Limits()

    def to_state(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """Fields of newer releases are ignored."""
        return msgspec.convert(state, known(cls))
