"""Whether a request can have the network `user` here: its runtime must know of it, its host have the program."""

from __future__ import annotations

from ..networks.trying import Networks
from .host import Host
from .spec import OciSettings

__all__ = ["networks_of"]


def networks_of(settings: OciSettings, host: Host) -> Networks:
    """What this host gives."""
    return Networks(
        engine="oci",
        program=settings.network_program,
        room=host.room,
        maps=host.rootless.maps if host.rootless is not None else None,
        lack="" if "user" in host.runtime.flavour.networks else "its runtime has no network 'user'",
    )
