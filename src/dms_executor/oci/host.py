"""What this host offers to the engine: looked at once per process, and the reason if it cannot be used."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable
from ..types import ByteSize, Capacity
from .cgroups import Cgroups, detect, make_shims_group
from .devices import gpus_here
from .runtime import SEARCH_PATH, Runtime, choose, tried
from .scope import is_there, scope_of
from .spec import OciSettings
from .userns import problem_of_host

__all__ = ["Host", "capabilities", "capacity", "look", "prepare_host"]

_POWERS = frozenset({"pause", "stats", "copy", "exec", "exec_kill", "exact_signal", "oom_detection"})


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """`joins`: the files by which a shim leaves its caller's cgroups. `disk`: a loop device can be had.

    `no_userns`: why no job can have a user namespace; empty where it can. `scope`: the cgroup of our own below systemd;
    `outside`: jobs that were started without it, by an earlier release.
    """

    runtime: Runtime
    cgroups: Cgroups
    limits: frozenset[str]
    memory: int
    joins: list[str] = []
    mke2fs: str | None = None
    no_userns: str = ""
    scope: str = ""
    outside: frozenset[str] = frozenset()

    def job_group(self, parent: str, token: str) -> str:
        """The cgroup of one job, below each hierarchy's mount."""
        return f"{self.scope}/{token}" if self.scope and token not in self.outside else f"{parent}/{token}"

    async def has_lost_its_scope(self) -> bool:
        """Whether somebody has stopped it, and it has to be made again."""
        return bool(self.scope) and not await is_there(self.cgroups.hierarchies[0].mount, self.scope)


def look(settings: OciSettings) -> Host:
    """Makes nothing. Raises `EngineUnavailable`. Blocks."""
    if os.geteuid() != 0:
        raise EngineUnavailable(
            "the oci engine needs root in this release", mend="Run it as root; running without comes later"
        )
    runtime = choose(settings)
    cgroups = detect()
    if cgroups.mode == "none":
        raise EngineUnavailable("no cgroups are mounted", mend="mount -t cgroup2 none /sys/fs/cgroup")
    mke2fs = shutil.which("mke2fs", path=SEARCH_PATH) if os.access("/dev/loop-control", os.R_OK | os.W_OK) else None
    limits = cgroups.limits | ({"disk"} if mke2fs else set())
    return Host(
        runtime=runtime,
        cgroups=cgroups,
        limits=frozenset(limits),
        memory=_memory(),
        mke2fs=mke2fs,
        no_userns="off in the settings" if settings.userns == "off" else runtime.flavour.no_userns or problem_of_host(),
    )


async def prepare_host(settings: OciSettings) -> Host:
    """`look`, and then makes what all executions share: the room's folder and the cgroup of shims and jobs."""
    host = await asyncio.to_thread(look, settings)
    await tried(host.runtime)
    if host.cgroups.mode == "v2":
        scope = await scope_of(settings.cgroup_parent, host.cgroups.hierarchies[0].mount)
        host = msgspec.structs.replace(host, scope=scope)
    return await asyncio.to_thread(_prepared, host, settings)


def _prepared(host: Host, settings: OciSettings) -> Host:
    try:
        Path(settings.room).mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailable(
            f"{settings.room!r} cannot be made: {error.strerror}", mend="Choose another folder by the setting `room`"
        ) from error
    joins = make_shims_group(host.cgroups, f"{host.scope or settings.cgroup_parent}/shims")
    return msgspec.structs.replace(host, joins=joins, outside=_jobs_outside(host, settings.cgroup_parent))


def _jobs_outside(host: Host, parent: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(f"{host.cgroups.hierarchies[0].mount}/{parent}")) if host.scope else frozenset()
    except FileNotFoundError:
        return frozenset()


def capabilities(host: Host) -> frozenset[str]:
    """What a job here can be asked, and which limits are enforced."""
    found = _POWERS | host.limits
    if not host.cgroups.freezer(""):
        found -= {"pause", "exec_kill"}
    if not host.no_userns:
        found |= {"userns"}
    return found - host.runtime.flavour.lacks


def capacity(host: Host, state_dir: Path) -> Capacity:
    """What all executions together may reserve. Blocks."""
    status = os.statvfs(state_dir)
    return Capacity(
        cpu=float(len(os.sched_getaffinity(0))),
        memory=ByteSize(host.memory),
        disk=ByteSize(status.f_bavail * status.f_frsize),
        pids=_pid_limit(),
        gpus=gpus_here(),
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _pid_limit() -> int | None:
    try:
        return int(Path("/proc/sys/kernel/threads-max").read_text())
    except (OSError, ValueError):
        return None
