"""Devices in a container: the nodes that its shim makes, and their part of the runtime's configuration.

The shim makes each node in the room, with the ids of the job's own range, and the runtime binds it: a runtime makes
none in a user namespace, and would bind the host's own, which there belongs to nobody. The job's device cgroup allows
just these numbers, and nobody in it can make nodes (no CAP_MKNOD).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ..devices.gpus import discover
from ..devices.granter import Granter
from ..devices.grants import DeviceGrants, MountGrant, reopen_node
from ..engine import EngineContext
from ..images.users import User
from ..policy import reopen
from ..supervisor import spec
from ..types import GPU, ExecutionRequest
from .bound_nodes import check_nodes
from .flavours import Flavour
from .process import Process
from .rootless import Rootless
from .spec import OciSettings

__all__ = ["OciDevices", "device_mounts", "device_rules", "equipped", "gpus_here", "joined", "shim_mounts"]


class OciDevices:
    """What this engine may give, by its settings and the policy."""

    def __init__(self, context: EngineContext, settings: OciSettings) -> None:
        self._granter = Granter(
            "oci", context.policy, settings.cdi_folders, settings.cdi_hooks, refused=(context.state_dir,)
        )

    async def grant(self, request: ExecutionRequest, rootless: Rootless | None) -> DeviceGrants:
        """Raises `InvalidRequest`, `PolicyDenied`, `NotSupported`, `ResourcesUnavailable`, `EngineUnavailable`."""
        return await self._granter.grant(request, _check(rootless))

    async def powers(self, flavour: Flavour, rootless: Rootless | None) -> frozenset[str]:
        """Its capabilities: GPUs only where one of those that are here could be given."""
        return await self._granter.powers(_check(rootless)) - flavour.lacks


def _check(rootless: Rootless | None) -> Callable[[DeviceGrants], None]:
    def check(granted: DeviceGrants) -> None:
        if rootless is not None:
            check_nodes(granted, rootless, User())

    return check


def gpus_here() -> list[GPU]:
    """For the engine's capacity. Blocks."""
    return [found.gpu for found in discover()]


def shim_mounts(devices: DeviceGrants, user: User, keep: Callable[[int], int]) -> list[spec.Bind | spec.DeviceNode]:
    """What the shim makes and binds. Each is opened again and must be what was granted. Raises `PolicyDenied`."""
    made: list[spec.Bind | spec.DeviceNode] = []
    for index, node in enumerate(devices.nodes):
        granted = reopen_node(node)
        kind = stat.S_IFBLK if node.kind == "b" else stat.S_IFCHR
        made.append(
            spec.DeviceNode(
                name=str(index),
                mode=kind | node.mode,
                uid=user.uid if node.uid is None else node.uid,
                gid=user.gid if node.gid is None else node.gid,
                major=node.major,
                minor=node.minor,
                fd=keep(granted.fd) if granted is not None else None,
            )
        )
    for index, mount in enumerate(devices.mounts):
        opened = reopen(mount.grant, field="$.devices")
        made.append(
            spec.Bind(
                fd=keep(opened.fd),
                target=_mount_path(index),
                read_only=mount.read_only,
                recursive=opened.is_dir,
                restricted=mount.restricted,
            )
        )
    return made


def device_mounts(
    room: str, devices: DeviceGrants, kept: Mapping[str, list[str]] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """`mounts` of the configuration; their flags are those of the shim's mounts. `kept`: see `oci_config`."""
    nodes = [
        {"destination": node.path, "type": "bind", "source": f"{room}/dev/{index}", "options": _NODE}
        for index, node in enumerate(devices.nodes)
    ]
    binds = []
    for index, mount in enumerate(devices.mounts):
        place = _mount_path(index)
        options = [*_options(mount), *kept.get(place, [])]
        binds.append({"destination": mount.target, "type": "bind", "source": f"{room}/{place}", "options": options})
    return [*binds, *nodes]


def device_rules(devices: DeviceGrants) -> list[dict[str, Any]]:
    """`linux.resources.devices`: what the job may open beside the usual nodes."""
    return [
        {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": node.access}
        for node in devices.nodes
        if node.access
    ]


def joined(user: User, devices: DeviceGrants) -> User:
    """With the groups that the devices' specs add."""
    groups = sorted({*user.groups, *devices.groups} - {user.gid})
    return msgspec.structs.replace(user, groups=groups) if devices.groups else user


def equipped(process: Process, devices: DeviceGrants) -> Process:
    """With the variables that the devices' specs set: the machine's owner wrote them, so they count most."""
    return msgspec.structs.replace(process, environment={**process.environment, **devices.environment})


_NODE = ["bind", "nosuid", "noexec"]
_GIVEN = frozenset({"noexec", "noatime", "nodiratime", "relatime", "strictatime"})


def _options(mount: MountGrant) -> list[str]:
    own = ["rbind", "rprivate", "nosuid", "ro" if mount.read_only else "rw", *(["nodev"] if mount.restricted else [])]
    return [*own, *(option for option in mount.options if option in _GIVEN)]


def _mount_path(index: int) -> str:
    return f"devices/{index}"
