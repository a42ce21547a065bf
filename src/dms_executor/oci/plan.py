"""What `prepare` decided, as it stands in `Prepared.state` and `Handle.state`: enough to create, find and undo."""

from __future__ import annotations

from typing import Any

import msgspec

from ..devices.grants import DeviceGrants
from ..images import ImageConfig
from ..limits import Limits
from ..policy import Grant
from ..typed import known
from ..volumes import Volumes

__all__ = ["Plan"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The root is a granted folder (`root`) or an image of the cache (`digest`)."""

    image: ImageConfig
    root: Grant | None = None
    digest: str | None = None
    volumes: Volumes = Volumes()
    limits: Limits = Limits()
    devices: DeviceGrants = DeviceGrants()

    def to_state(self) -> dict[str, Any]:
        """As JSON types."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """Fields of newer releases are ignored."""
        return msgspec.convert(state, known(cls))
