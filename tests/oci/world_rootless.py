"""What an ordinary user's job may see: what root's with a user namespace may, but for the aspects written here.

All jobs of a user share one map: the caller's own id, and the user's ranges. Where no control group is delegated there
is none to be seen, and nothing bounds memory or tasks; the record says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .worlds import World

__all__ = ["WORLDS", "differs"]

Aspects = dict[str, Any]


def differs(world: World, maps: list[str], *, delegated: bool) -> World:
    """That world for one user. `maps`: `/proc/self/uid_map` and `gid_map` as that user's ids and ranges have it."""
    aspects: Aspects = {**world.differs, "ids": maps}
    if not delegated:
        aspects |= {"bounds": [], "mounts": _without_cgroups(world.differs.get("mounts"))}
    return World(
        name=world.name,
        settings=world.settings,
        runtime=world.runtime,
        user=world.user,
        differs=aspects,
    )


def _without_cgroups(other: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def judged(usual: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
        found = other(usual) if other is not None else usual
        return {mount for mount in found if not mount[0].startswith("/sys/fs/cgroup")}

    return judged


def _networked(usual: dict[str, str]) -> dict[str, str]:
    """Without NET_RAW, by which it would walk around the closed routes."""
    return {name: value.replace("25fb", "05fb") if name.startswith("Cap") else value for name, value in usual.items()}


_NETWORK: Aspects = {
    "privileges": _networked,
    "network": ["eth0", "lo"],
    "addresses": {
        "eth0 00000000 0202000A 00000000",  # 10.0.2.2
        "eth0 0002000A 00000000 00FFFFFF",
        "* 0000FEA9 00000000 0000FFFF",  # 169.254.0.0/16: unreachable
        "fd006a6f620000000000000000000100",
        "link-local",
        "0" * 31 + "1",
    },
}
WORLDS = [
    World(
        name=f"rootless-{runtime}{kind}",
        settings={"network_program": "pasta"},
        runtime=runtime,
        user=user,
        differs=differs,
    )
    for runtime in ("crun", "runc")
    for kind, user, differs in (("", None, {}), ("-user", "app", {}), ("-network", None, _NETWORK))
]
