"""What `prepare` decided, as it stands in `Prepared.state`: enough to create, find and undo."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import msgspec

from ..images import ImageConfig
from ..images.users import User
from ..limits import Limits
from ..policy import Grant
from ..typed import known
from ..volumes import Volumes

__all__ = ["FOLDER", "MEMORY", "JobProcess", "Plan"]

FOLDER = "vm"  # in the execution's folder: the disks, gone with the VM
MEMORY = "memory"  # in that: a guest that is saved, as native/vm_suspend.c names it


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The root is a granted folder (`root`) or an image of the cache (`digest`). `kernel` and `initrd`: their files.

    `snapshot`: the file of a guest that has booted already, None: this one boots.
    """

    image: ImageConfig
    kernel: str
    initrd: str
    snapshot: str | None = None
    root: Grant | None = None
    digest: str | None = None
    volumes: Volumes = Volumes()
    limits: Limits = Limits()

    @property
    def began_from(self) -> dict[str, str]:
        """The snapshot's name, for the user's eyes."""
        return {"snapshot": PurePath(self.snapshot).name} if self.snapshot is not None else {}

    def to_state(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """Fields of newer releases are ignored."""
        return msgspec.convert(state, known(cls))


class JobProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What a command has from the job, and where users are found: part of `Handle.state` as "process". No secrets."""

    user: User
    environment: dict[str, str]
    directory: str
    root: Grant | None = None
    digest: str | None = None

    def to_state(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
