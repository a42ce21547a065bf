"""What the daemon says of itself: version, capacity, which limits hold.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemInfo
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import EngineUnavailable
from ..typed import known
from ..types import ByteSize, Capacity, Probe
from .client import Client
from .copies import can_copy

__all__ = ["Daemon", "describe"]

_POWERS = frozenset({"exec", "exec_kill", "pause", "exact_signal", "stats"})


class _Info(msgspec.Struct, rename="pascal"):
    ncpu: int = msgspec.field(default=1, name="NCPU")
    mem_total: int = 0
    memory_limit: bool = True
    pids_limit: bool = True
    cpu_cfs_quota: bool = msgspec.field(default=True, name="CpuCfsQuota")
    driver: str = ""
    cgroup_version: str = "1"
    server_version: str = ""
    os_type: str = msgspec.field(default="linux", name="OSType")


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """`limits`: the words of those that it enforces; `memory` in bytes."""

    version: str
    cpu: int
    memory: int
    limits: frozenset[str]
    storage: str
    cgroups: str

    def probe(self, engine: str) -> Probe:
        """As a usable engine's."""
        capabilities = _POWERS | self.limits | ({"oom_detection"} if "memory" in self.limits else set())
        capabilities |= {"copy"} if can_copy() else set()
        return Probe(
            engine=engine,
            usable=True,
            version=f"{self.version} ({self.storage}; cgroups v{self.cgroups})",
            capabilities=capabilities,
            capacity=Capacity(cpu=float(self.cpu), memory=ByteSize(self.memory)),
        )


async def describe(client: Client) -> Daemon:
    """Raises `EngineUnavailable`, `EngineUnreachable`."""
    raw: dict[str, Any] = await client.get("/info", deadline=5.0)
    info = msgspec.convert(raw, known(_Info))
    if info.os_type != "linux":
        raise EngineUnavailable(f"the daemon runs {info.os_type} containers", mend="Switch it to Linux containers")
    holds = {"memory": info.memory_limit, "pids": info.pids_limit, "cpu": info.cpu_cfs_quota}
    return Daemon(
        version=info.server_version,
        cpu=info.ncpu,
        memory=info.mem_total,
        limits=frozenset(limit for limit, is_held in holds.items() if is_held),
        storage=info.driver,
        cgroups=info.cgroup_version,
    )
