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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..devices.gpus import discover
from ..devices.granter import Granter
from ..devices.grants import DeviceGrants, NodeGrant, reopen_node
from ..engine import EngineContext
from ..errors import NotSupported
from ..policy import reopen
from ..types import GPU, ExecutionRequest
from .daemon import Daemon
from .dialect import UNSAFE, Dialect
from .spec import DockerSettings

__all__ = ["DRIVER_MEND", "DockerDevices", "device_config", "device_mounts", "reopen_devices"]

_HOOK = "nvidia-container-runtime-hook"
# Where a daemon looks for it: its PATH as a service. https://github.com/moby/moby/blob/v20.10.24/daemon/nvidia_linux.go
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOOKS = "*nvidia*.json"
DRIVER_MEND = "Install nvidia-container-toolkit, and restart the daemon: it looks for it when it starts"


class DockerDevices:
    """What this engine may give, by its settings and the policy."""

    def __init__(self, context: EngineContext, settings: DockerSettings, dialect: Dialect) -> None:
        self._dialect = dialect
        self._granter = Granter(
            dialect.engine, context.policy, settings.cdi_folders, settings.cdi_hooks, refused=(context.state_dir,)
        )

    async def grant(self, request: ExecutionRequest) -> DeviceGrants:
        """Raises `InvalidRequest`, `PolicyDenied`, `NotSupported`, `ResourcesUnavailable`, `EngineUnavailable`."""
        granted = await self._granter.grant(request, self._check, self._by_daemon)
        return await asyncio.to_thread(_with_groups, granted) if granted.nodes else granted

    async def powers(self) -> tuple[frozenset[str], list[GPU]]:
        """Its capabilities, and the GPUs that are here: declared only where one of them could be given."""
        powers = await self._granter.powers(self._check, self._by_daemon)
        return powers, [found.gpu for found in await asyncio.to_thread(discover)]

    async def go_by_environment(self, daemon: Daemon) -> bool:
        """Whether GPUs go to any container whose environment names them: by the default runtime, or a hook."""
        return daemon.gives_gpus or await asyncio.to_thread(self._has_hook)

    def _has_hook(self) -> bool:
        return any(any(Path(folder).glob(_HOOKS)) for folder in self._dialect.hook_folders)

    def _by_daemon(self) -> tuple[str, ...]:
        return ("nvidia",) if self._dialect.takes_requests and shutil.which(_HOOK, path=_PATH) else ()

    def _check(self, granted: DeviceGrants) -> None:
        """What a daemon cannot do. Raises `NotSupported`."""
        for node in granted.nodes:
            if node.grant is None or not node.access:
                raise self._lacking(f"gives the host's own nodes only, to be read or written: {node.path!r} is none")
            self._check_text(":", node.path, node.grant.host_path)
        for mount in granted.mounts:
            self._check_text(UNSAFE, mount.target, mount.grant.host_path)
        if granted.rdt is not None:
            raise self._lacking("cannot set intelRdt")

    def _check_text(self, signs: Iterable[str], *paths: str) -> None:
        for path in paths:
            if self._dialect.mounts_as_text and any(sign in path for sign in signs):
                raise self._lacking(f"puts {path!r} into a text where it would mean something else")

    def _lacking(self, what: str) -> NotSupported:
        engine = self._dialect.engine
        return NotSupported(f"engine {engine} {what}", engine=engine, what="$.devices", mend="Mend the CDI spec")


def _with_groups(granted: DeviceGrants) -> DeviceGrants:
    groups = {group for node in granted.nodes if (group := _group_of(node)) is not None}
    return msgspec.structs.replace(granted, groups=sorted({*granted.groups, *groups}))


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
