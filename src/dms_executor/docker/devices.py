"""Devices and GPUs in a container of the daemon's: from what was granted to its part of the create call.

A daemon gives the host's own node with the host's owner and mode, so the job is put into the node's group. NVIDIA's
GPUs are handed over by the daemon itself where NVIDIA's hook is installed for it, since the driver's libraries come
along; else by a CDI spec, as on every engine.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from typing import Any

import msgspec

from ..devices.gpus import discover
from ..devices.grants import DeviceGrants, NodeGrant, grant_devices, reopen_node, usable_gpu
from ..devices.places import is_jobs_own
from ..devices.registry import Registry
from ..engine import EngineContext
from ..errors import NotSupported
from ..policy import reopen
from ..types import GPU, ExecutionRequest
from .spec import DockerSettings

__all__ = ["DRIVER_MEND", "DockerDevices", "device_config", "device_mounts", "reopen_devices"]

_HOOK = "nvidia-container-runtime-hook"
# Where a daemon looks for it: its PATH as a service. https://github.com/moby/moby/blob/v20.10.24/daemon/nvidia_linux.go
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DRIVER_MEND = "Install nvidia-container-toolkit, and restart the daemon: it looks for it when it starts"


class DockerDevices:
    """What this engine may give, by its settings and the policy."""

    def __init__(self, context: EngineContext, settings: DockerSettings) -> None:
        self._context = context
        self._settings = settings
        self._registry = Registry(settings.cdi_folders)
        self._turn = asyncio.Lock()

    async def grant(self, request: ExecutionRequest) -> DeviceGrants:
        """Raises `InvalidRequest`, `PolicyDenied`, `NotSupported`, `ResourcesUnavailable`, `EngineUnavailable`."""
        if not request.devices and not request.resources.gpus:
            return DeviceGrants()
        async with self._turn:
            return await asyncio.to_thread(self._grant, request)

    async def powers(self) -> tuple[frozenset[str], list[GPU]]:
        """Its capabilities, and the GPUs that are here: declared only where one of them could be given."""
        async with self._turn:
            return await asyncio.to_thread(self._powers)

    def _powers(self) -> tuple[frozenset[str], list[GPU]]:
        usable = usable_gpu(self._registry, self._settings.cdi_hooks, _check, _by_daemon())
        return frozenset({"devices", "gpus"} if usable else {"devices"}), [found.gpu for found in discover()]

    def _grant(self, request: ExecutionRequest) -> DeviceGrants:
        try:
            granted = grant_devices(
                request,
                self._context.policy,
                self._registry,
                refused=(self._context.state_dir,),
                hooks=self._settings.cdi_hooks,
                by_daemon=_by_daemon(),
            )
        except NotSupported as error:
            error.engine = "docker"
            raise
        _check(granted)
        groups = {group for node in granted.nodes if (group := _group_of(node)) is not None}
        return msgspec.structs.replace(granted, groups=sorted({*granted.groups, *groups}))


def _by_daemon() -> tuple[str, ...]:
    return ("nvidia",) if shutil.which(_HOOK, path=_PATH) else ()


def _check(granted: DeviceGrants) -> None:
    """What a daemon cannot do. Raises `NotSupported`."""
    for target in (*(node.path for node in granted.nodes), *(mount.target for mount in granted.mounts)):
        if is_jobs_own(target):
            raise _not_supported(f"cannot put a device at {target!r}, which is the job's own")
    for node in granted.nodes:
        if node.grant is None or not node.access:
            raise _not_supported(f"gives the host's own nodes only, to be read or written: {node.path!r} is none")
    if granted.rdt is not None:
        raise _not_supported("cannot set intelRdt")


def _not_supported(what: str) -> NotSupported:
    return NotSupported(f"engine docker {what}", engine="docker", what="$.devices", mend="Mend the CDI spec")


def _group_of(node: NodeGrant) -> int | None:
    """The group whose members may use the host's node, e.g. video or render; None: that is root's, or of no use."""
    with_node = reopen_node(node)
    if with_node is None:
        return None
    with with_node:
        status = os.fstat(with_node.fd)
    return status.st_gid if status.st_gid and status.st_mode & (stat.S_IRGRP | stat.S_IWGRP) else None


def reopen_devices(devices: DeviceGrants) -> None:
    """Looks once more whether what was granted stands there; the daemon takes text only. Raises `PolicyDenied`."""
    for node in devices.nodes:
        opened = reopen_node(node)
        if opened is not None:
            opened.close()
    for mount in devices.mounts:
        reopen(mount.grant, field="$.devices").close()


def device_config(devices: DeviceGrants) -> dict[str, Any]:
    """Its part of `HostConfig`, without the mounts."""
    config: dict[str, Any] = {}
    nodes = [
        {"PathOnHost": node.grant.host_path, "PathInContainer": node.path, "CgroupPermissions": node.access}
        for node in devices.nodes
        if node.grant is not None
    ]
    if nodes:
        config["Devices"] = nodes
    if devices.groups:
        config["GroupAdd"] = [str(group) for group in devices.groups]
    if devices.by_daemon:
        # As `docker run --gpus device=...` has it; what of the driver comes along is the image's to say.
        wanted = {"Driver": "nvidia", "DeviceIDs": devices.by_daemon, "Capabilities": [["gpu"]]}
        config["DeviceRequests"] = [wanted]
    return config


def device_mounts(devices: DeviceGrants) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only of what the specs bind."""
    return [(mount.grant.host_path, mount.target, mount.read_only) for mount in devices.mounts]
