"""What the daemon says of itself: version, capacity, which limits hold.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemInfo
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EngineUnavailable
from ..typed import known
from ..types import GPU, ByteSize, Capacity, Probe
from .client import Client
from .copies import can_copy
from .disk import can_limit_disk

__all__ = ["OF_GROUPS", "Daemon", "describe", "described"]

_POWERS = frozenset(
    {"exec", "exec_kill", "attach", "tty", "pause", "exact_signal", "stats", "ports", "named_volumes", "images"}
)
OF_GROUPS = frozenset({"pause", "stats"})
_LIBPOD = "/v4.0.0/libpod/info"  # its own API; the other tells what root could enforce there
_NO_SECCOMP = ("name=seccomp,profile=unconfined",)


class _Info(msgspec.Struct, rename="pascal"):
    ncpu: int = msgspec.field(default=1, name="NCPU")
    mem_total: int = 0
    memory_limit: bool = True
    pids_limit: bool = True
    cpu_cfs_quota: bool = msgspec.field(default=True, name="CpuCfsQuota")
    driver: str = ""
    driver_status: list[list[str]] | None = None
    docker_root_dir: str = ""
    security_options: list[str] | None = None
    default_runtime: str = ""
    cgroup_version: str = "1"
    server_version: str = ""
    os_type: str = msgspec.field(default="linux", name="OSType")
    rootless: bool = False  # Podman's own


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """`limits`: the words of those that it enforces; `memory` in bytes; `seccomp`: its default is a filter.

    `gives_gpus`: its default runtime hands GPUs to any container whose environment says so. `has_groups`: containers
    have control groups, by which they can be frozen and measured.
    """

    version: str
    cpu: int
    memory: int
    limits: frozenset[str]
    storage: str
    cgroups: str
    seccomp: bool = True
    gives_gpus: bool = False
    has_groups: bool = True

    @property
    def loosened(self) -> list[str]:
        """What its own configuration takes away from every job."""
        return [] if self.seccomp else ["seccomp: the daemon's default is no filter"]

    def probe(self, engine: str, powers: frozenset[str], gpus: list[GPU]) -> Probe:
        """As a usable engine's, with what devices there are."""
        capabilities = powers | _POWERS | self.limits | ({"oom_detection"} if "memory" in self.limits else set())
        capabilities |= {"copy", "copy_paused"} if can_copy() else set()
        capabilities -= set() if self.has_groups else OF_GROUPS
        return Probe(
            engine=engine,
            usable=True,
            version=f"{self.version} ({self.storage}; cgroups v{self.cgroups})",
            capabilities=capabilities,
            capacity=Capacity(cpu=float(self.cpu), memory=ByteSize(self.memory), gpus=gpus),
        )


_Socket = tuple[str, int, int]
_known: dict[_Socket, Daemon] = {}


async def described(client: Client) -> Daemon:
    """As this process knows it: Podman takes most of a second to say. Raises what `describe` raises."""
    await client.ping()
    socket = await asyncio.to_thread(_socket, client.socket)
    if socket not in _known:
        _known[socket] = await describe(client)
    return _known[socket]


def _socket(path: str) -> _Socket:
    """A daemon that was started anew has made it anew. Blocks."""
    try:
        found = Path(path).stat()
    except OSError:
        return path, 0, 0
    return path, found.st_ino, found.st_ctime_ns


async def describe(client: Client) -> Daemon:
    """Asks. Raises `EngineUnavailable`, `EngineUnreachable`."""
    raw: dict[str, Any] = await client.get("/info", deadline=5.0)
    info = msgspec.convert(raw, known(_Info))
    if info.os_type != "linux":
        raise EngineUnavailable(f"the daemon runs {info.os_type} containers", mend="Switch it to Linux containers")
    options = info.security_options or []
    disk = await asyncio.to_thread(can_limit_disk, info.driver, info.driver_status or [], info.docker_root_dir)
    holds = {"disk": disk, "memory": info.memory_limit, "pids": info.pids_limit, "cpu": info.cpu_cfs_quota}
    delegated = await _delegated(client) if info.rootless else holds.keys()
    holds = {limit: is_held and (limit == "disk" or limit in delegated) for limit, is_held in holds.items()}
    return Daemon(
        version=info.server_version,
        cpu=info.ncpu,
        memory=info.mem_total,
        limits=frozenset(limit for limit, is_held in holds.items() if is_held),
        storage=info.driver,
        cgroups=info.cgroup_version,
        seccomp=any(each.startswith("name=seccomp") and each not in _NO_SECCOMP for each in options),
        gives_gpus="nvidia" in info.default_runtime,
        has_groups=bool(delegated),
    )


async def _delegated(client: Client) -> Collection[str]:
    """The controllers that an ordinary user's service of Podman has: none with cgroup v1."""
    told = await client.get(_LIBPOD, deadline=5.0)
    return list(told["host"].get("cgroupControllers") or [])
