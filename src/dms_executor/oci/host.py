"""What this host offers to the engine: looked at once per process, and the reason if it cannot be used."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import msgspec

from ..cgroups import Cgroups, detect, make_shims_group
from ..cgroups.scope import below_manager, is_there, scope_of
from ..errors import EngineUnavailable, NotSupported
from ..filesystems import filesystem_type
from ..programs import SEARCH_PATH
from ..types import ByteSize, Capacity
from .delegation import Delegated, delegated, given, settle
from .devices import gpus_here
from .rootless import Rootless, find_rootless, room_of
from .runtime import Runtime, choose, tried
from .spec import ROOM, OciSettings
from .userns import problem_of_host

__all__ = ["Host", "capabilities", "capacity", "look", "prepare_host"]

_POWERS = frozenset(
    {"pause", "stats", "copy", "copy_paused", "exec", "exec_kill", "attach", "tty", "exact_signal", "oom_detection"}
)


_SHARED = "all jobs of an ordinary user share its one range of ids"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """`joins`: the files by which a shim leaves its caller's cgroups. `disk`: a loop device can be had.

    `no_userns`: why no job can have a user namespace of its own; empty where it can. `room`: where each shim mounts
    its tmpfs. `hidden`: mounts that the runtime must not see. `options`: of the runtime. `rootless`: how an ordinary
    user enters its user namespace; then `base` is the delegated cgroup with a slash behind it, and `unlimited` how to
    get one where there is none. `scope`: the cgroup of our own below systemd;
    `outside`: jobs that were started without it, by an earlier release.
    """

    runtime: Runtime
    cgroups: Cgroups
    limits: frozenset[str]
    memory: int
    joins: list[str] = []
    mke2fs: str | None = None
    no_userns: str = ""
    room: str = ROOM
    hidden: list[str] = []
    options: tuple[str, ...] = ()
    base: str = ""
    unlimited: str = ""
    rootless: Rootless | None = None
    scope: str = ""
    outside: frozenset[str] = frozenset()

    @property
    def without_cgroups(self) -> bool:
        """No limit, no freezer, no figures: an ordinary user's jobs where nothing is delegated."""
        return self.cgroups.mode == "none"

    @property
    def maps(self) -> tuple[str, ...]:
        """Of the user namespace that an ordinary user's shims are in."""
        return self.rootless.maps if self.rootless is not None else ()

    def need_cgroup(self, what: str, execution_id: str) -> None:
        """Raises `NotSupported` where jobs have none."""
        if self.without_cgroups:
            raise NotSupported(
                "no control group is delegated to this user",
                engine="oci",
                what=what,
                mend=self.unlimited,
                execution_id=execution_id,
            )

    def job_group(self, parent: str, token: str) -> str:
        """The cgroup of one job, below each hierarchy's mount."""
        return f"{self.scope}/{token}" if self.scope and token not in self.outside else f"{self.base}{parent}/{token}"

    async def has_lost_its_scope(self) -> bool:
        """Whether somebody has stopped it, and it has to be made again."""
        return bool(self.scope) and not await is_there(self.cgroups.hierarchies[0].mount, self.scope)


def look(settings: OciSettings, state_dir: Path) -> Host:
    """Makes nothing. Raises `EngineUnavailable`. Blocks."""
    _check_layers(state_dir)
    rootless = find_rootless() if os.geteuid() != 0 else None
    runtime = choose(settings)
    cgroups = detect()
    hidden = runtime.umounts(cgroups)
    if rootless is not None:
        return _look_rootless(settings, state_dir, runtime, rootless, cgroups, hidden)
    if cgroups.mode == "none":
        raise EngineUnavailable("no cgroups are mounted", mend="mount -t cgroup2 none /sys/fs/cgroup")
    mke2fs = shutil.which("mke2fs", path=SEARCH_PATH) if os.access("/dev/loop-control", os.R_OK | os.W_OK) else None
    limits = cgroups.limits | ({"disk"} if mke2fs else set())
    return Host(
        runtime=runtime,
        cgroups=cgroups,
        limits=frozenset(limits),
        memory=_memory(),
        room=settings.room or ROOM,
        hidden=hidden,
        mke2fs=mke2fs,
        no_userns="off in the settings" if settings.userns == "off" else runtime.flavour.no_userns or problem_of_host(),
    )


def _check_layers(state_dir: Path) -> None:
    """What jobs write lies in the state folder, as the upper layer of an overlay, which cannot be an overlay itself.

    https://docs.kernel.org/filesystems/overlayfs.html#upper-and-lower
    """
    there = next(folder for folder in (state_dir, *state_dir.absolute().parents) if folder.exists())
    if filesystem_type(there) == "overlay":
        raise EngineUnavailable(
            f"the state folder {state_dir} lies on an overlay, on which the kernel puts no other",
            mend="Have it on a disk; within a container on a volume: `docker run --volume state:/var/lib/dms-executor`",
        )


def _look_rootless(
    settings: OciSettings, state_dir: Path, runtime: Runtime, rootless: Rootless, seen: Cgroups, hidden: list[str]
) -> Host:
    """No disk, since a loop device takes root; and only what is delegated of the control groups."""
    if runtime.flavour.needs_root:
        raise EngineUnavailable(
            f"the runtime {runtime.flavour.name} needs root here", mend="Take crun or runc by the setting `runtime`"
        )
    host = Host(
        runtime=runtime,
        cgroups=Cgroups(),
        limits=frozenset(),
        memory=_memory(),
        room=settings.room or room_of(state_dir),
        hidden=hidden,
        rootless=rootless,
        no_userns=_SHARED,
    )
    return _with_cgroups(host, delegated(seen))


async def prepare_host(settings: OciSettings, state_dir: Path) -> Host:
    """`look`, and then makes what all executions share: the room's folder and the cgroup of shims and jobs."""
    host = await asyncio.to_thread(look, settings, state_dir)
    await tried(host.runtime)
    if host.rootless is not None:
        host = await _users_cgroups(host, settings)
    elif host.cgroups.mode == "v2":
        scope = await scope_of(settings.cgroup_parent, host.cgroups.hierarchies[0].mount)
        host = msgspec.structs.replace(host, scope=scope)
    return await asyncio.to_thread(_prepared, host, settings)


async def _users_cgroups(host: Host, settings: OciSettings) -> Host:
    """What was found to be delegated, made ready: a scope from the user's systemd, or a leaf for this process."""
    own = await asyncio.to_thread(_delegated)
    if not own.manager:
        try:
            return _with_cgroups(host, await asyncio.to_thread(settle, own))
        except OSError as error:
            raise EngineUnavailable(f"/{own.base} is not ours to divide: {error.strerror}", mend=own.mend) from error
    hierarchy = own.cgroups.hierarchies[0]
    if not hierarchy.own.startswith(f"{own.manager}/"):
        await below_manager(own.manager)
        hierarchy = (await asyncio.to_thread(detect)).hierarchies[0]
    scope = await scope_of(settings.cgroup_parent, hierarchy.mount, own.manager)
    if not scope or not hierarchy.own.startswith(f"{own.manager}/"):
        return _with_cgroups(host, Delegated(mend="The user's systemd made no scope: see `systemctl --user status`"))
    found = await asyncio.to_thread(given, hierarchy, f"/{scope}", in_full=True)
    return msgspec.structs.replace(_with_cgroups(host, found), scope=scope)


def _delegated() -> Delegated:
    return delegated(detect())


def _with_cgroups(host: Host, own: Delegated) -> Host:
    return msgspec.structs.replace(
        host,
        cgroups=own.cgroups,
        options=() if own.cgroups.hierarchies else host.runtime.flavour.without_cgroups,
        limits=own.cgroups.limits,
        base=own.base,
        unlimited=own.mend,
    )


def _prepared(host: Host, settings: OciSettings) -> Host:
    try:
        Path(host.room).mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailable(
            f"{host.room!r} cannot be made: {error.strerror}", mend="Choose another folder by the setting `room`"
        ) from error
    joins = make_shims_group(host.cgroups, f"{host.scope or host.base + settings.cgroup_parent}/shims")
    return msgspec.structs.replace(host, joins=joins, outside=_jobs_outside(host, settings.cgroup_parent))


def _jobs_outside(host: Host, parent: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(f"{host.cgroups.hierarchies[0].mount}/{parent}")) if host.scope else frozenset()
    except FileNotFoundError:
        return frozenset()


def capabilities(host: Host) -> frozenset[str]:
    """What a job here can be asked, and which limits are enforced."""
    found = _POWERS | host.limits | {"images"}
    if host.without_cgroups:
        found -= {"pause", "stats"}
    if not host.cgroups.freezer(""):
        found -= {"pause", "exec_kill"}
    if "memory" not in host.limits:
        found -= {"oom_detection"}
    if host.rootless is not None or not host.no_userns:
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
