"""Device nodes of an ordinary user's jobs: the host's own, bound, since nobody but the host's root makes one.

So the host's owner, mode and access list count, and what a CDI spec says of them does not. The job's root is the caller
without the caller's further groups, which a user namespace cannot name; its other users are ids of the ranges.
"""

from __future__ import annotations

import os

from ..devices.access import access_of
from ..devices.grants import DeviceGrants, NodeGrant, reopen_node
from ..errors import NotSupported
from ..images.users import User
from .rootless import Rootless

__all__ = ["check_nodes"]


def check_nodes(devices: DeviceGrants, rootless: Rootless, user: User) -> None:
    """Raises `NotSupported` for a node that a job's `user` could not open, `PolicyDenied` for a swapped one. Blocks."""
    for node in devices.nodes:
        why, mend = _problem(node, rootless, user)
        if why:
            raise NotSupported(
                f"engine oci without root cannot give {node.path}: {why}",
                engine="oci",
                what="$.devices",
                mend=f"{mend}, or run the executor as root",
            )


def _problem(node: NodeGrant, rootless: Rootless, user: User) -> tuple[str, str]:
    granted = reopen_node(node)
    if granted is None:
        return "the host has no such node, and only root makes one", "Name one of the host's in the CDI spec"
    with granted:
        uid, gids = rootless.outside(user)
        path = node.grant.host_path if node.grant is not None else node.path
        if os.fstatvfs(granted.fd).f_flag & os.ST_NODEV:
            return f"{path} lies on a mount with nodev", "Give it a place in /dev"
        if set(node.access) <= set(access_of(granted.fd, uid, gids)):
            return "", ""
    who = "" if user.uid == 0 else f", in the job {user.uid}"
    return (
        f"the user of id {uid}{who} may not open {path} (membership in a group does not count)",
        f"As root: setfacl -m u:{uid}:rw {path} (and by a udev rule, to last)",
    )
