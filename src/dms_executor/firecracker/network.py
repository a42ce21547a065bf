"""The network `user` of a guest of Firecracker's, which has but tap devices.

The guest takes the address that the network program gave its namespace, and that namespace's kernel forwards between
the two (docs/protocol.md, section 10).
"""

from __future__ import annotations

from ..microvm.network import GuestNetwork
from ..microvm.settings import Rate
from ..networks.programs import ADDRESS, GATEWAY, INTERFACE, MASK, MTU
from .config import Interface

__all__ = ["NETWORK", "TAP", "interface", "way_to"]

NETWORK = GuestNetwork(address=ADDRESS, mask=MASK, gateway=GATEWAY, mtu=MTU)
TAP = "tap0"
_OWN = "10.0.2.4"  # of the namespace, towards the guest: nobody's else
_MAC = "06:00:0a:00:02:64"  # the same of every guest: each is alone with its namespace


def interface(rate: Rate) -> Interface:
    """The guest's `eth0`."""
    return Interface(name="eth0", tap=TAP, mac=_MAC, rate=rate)


def way_to(owner: int) -> list[str]:
    """What `dms-vm` is told: that user's tap device in the namespace, and what leads to it."""
    return ["-n", TAP, str(owner), "-f", INTERFACE, ADDRESS, MASK, GATEWAY, _OWN]
