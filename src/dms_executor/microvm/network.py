"""The network `user` of a guest: its monitor is in a network namespace that the shim makes and connects.

So what a job reaches, and what it does not, is the same as on the engine oci: it is that namespace's. A monitor with a
network of its own carries the guest's traffic there by ordinary sockets; of one that has but a tap device the kernel
forwards it (native/vm_way.c).
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable

__all__ = ["MODULES", "ROOM", "GuestNetwork", "make_room"]

ROOM = "/run/dms-executor"
"""Where a shim with a network mounts its tmpfs, as of the engine oci."""
MODULES = ("virtio_net",)


class GuestNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest's one interface is told: addresses of IPv4 as text; `mtu` in bytes, 0: the device's own."""

    address: str
    mask: str
    gateway: str
    mtu: int = 0

    @property
    def packed(self) -> bytes:
        """As the guest is told."""
        addresses = (self.address, self.mask, self.gateway)
        packed = b"".join(ipaddress.IPv4Address(text).packed for text in addresses)
        return packed + struct.pack("<I", self.mtu)


async def make_room() -> None:
    """Raises `EngineUnavailable`."""
    try:
        await asyncio.to_thread(Path(ROOM).mkdir, 0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailable(f"{ROOM} cannot be made: {error.strerror}", mend="Let root make it") from error
