"""The audit's written expectation: what a job may see of itself and of its host, for each way of isolating it.

A `World` says all of it, aspect by aspect (`tests/oci/seen.py` has the words), and a test compares for equality: what
is looser fails, and so does what is tighter, until it is written down here. A new way (rootless, another runtime) is
one more `World` in `WORLDS`, with its settings and with `differs`, the aspects in which it is not as root's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .seen import read_limits

__all__ = ["WORLDS", "World"]

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT,
# AUDIT_WRITE, SETFCAP: Docker's default without MKNOD.
_CAPABILITIES = "00000000a00425fb"
_NONE = "0" * 16
_NODES = {"full": "1:7", "null": "1:3", "random": "1:8", "tty": "5:0", "urandom": "1:9", "zero": "1:5"}
_LINKS = {"fd", "ptmx", "stderr", "stdin", "stdout"}
_MASKED_FOLDERS = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
_MASKED_FILES = (
    *("/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/timer_list", "/proc/timer_stats"),
)
_READ_ONLY = ("/proc/bus", "/proc/dynamic_debug", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# Knobs of a kernel that is a program (docs/host.md): its exit code, and how it traces. No other kernel has them.
_OF_A_PROGRAM = ("/proc/exitcode", "/proc/sysemu")
_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
_SAFE = "nodev noexec nosuid"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """`settings` of the engine. `user`: the job's, as params have it.

    `differs`: aspects by name, as values or as functions of root's.
    """

    name: str
    settings: Mapping[str, Any]
    runtime: str
    userns: bool = True
    user: str | None = None
    differs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def expected(self, *, token: str, init: Path) -> dict[str, Any]:
        """All aspects on this host."""
        found: dict[str, Any] = {
            "privileges": self._privileges(),
            "ids": ["0 its range 65536"] * 2 if self.userns else _own_maps(),
            "namespaces": self._namespaces(),
            "mounts": self._mounts(),
            "shown paths": self._shown(init),
            "device nodes": self._nodes(),
            "limits": _limits(),
            "cgroup": {"/"},
            "bounds": ["64", str(64 << 20)],
            "network": ["lo"],
            "addresses": {"0" * 31 + "1"},
            "sockets": [],
            "processes": {"/dev/.dms-executor-init", "sh"},
            # Anybody may ask to be woken by pressure; nothing of it changes the host.
            "writable kernel files": {
                *(f"/proc/pressure/{name}" for name in _names("/proc/pressure")),
                *(() if self.userns or self.user else _there(_OF_A_PROGRAM)),
            },
            "secrets": set() if self.userns or self.user else _readable_by_plain_root(),
            "/dev": {*_NODES, *_LINKS, *self._links(), "mqueue", "pts", "shm", ".dms-executor-init"},
            "/": {"bin", "dev", "etc", "proc", "root", "sys", "tmp"},
            "firmware": [],
            "descriptors": ["0", "1", "2"],
            "environment": {"HOME", "HOSTNAME", "PATH"},
            "host": {token[:12]},
        }
        for aspect, other in self.differs.items():
            found[aspect] = other(found[aspect]) if isinstance(other, Callable) else other
        return found

    def _privileges(self) -> dict[str, str]:
        held = _NONE if self.user else _CAPABILITIES
        ids = {"Uid": " ".join(["1000"] * 4), "Gid": " ".join(["1001"] * 4), "Groups": "1002"} if self.user else {}
        return {
            "Uid": "0 0 0 0",
            "Gid": "0 0 0 0",
            "Groups": "",
            **ids,
            "CapInh": _NONE,
            "CapPrm": held,
            "CapEff": held,
            "CapBnd": _CAPABILITIES,
            "CapAmb": _NONE,
            "NoNewPrivs": "1",
            "Seccomp": "2",
        }

    def _namespaces(self) -> dict[str, str]:
        kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        shared = [kind for kind in ("time", "user") if Path(f"/proc/self/ns/{kind}").is_symlink()]
        found = {**dict.fromkeys(kinds, "its own"), **dict.fromkeys(shared, "the host's")}
        return {**found, "user": "its own"} if self.userns else found

    def _mounts(self) -> set[tuple[str, str, str]]:
        crun = self.runtime == "crun"
        if _is_unified():
            cgroups = {("/sys/fs/cgroup", "cgroup2", f"{_SAFE} ro")}
        else:  # version 1: an empty folder's tmpfs, in it the hierarchies
            cgroups = {("/sys/fs/cgroup", "tmpfs", f"{_SAFE} rw"), ("/sys/fs/cgroup/*", "cgroup", f"{_SAFE} ro")}
        # A node cannot be made in a user namespace, so that the runtimes bind the host's.
        bound = {(f"/dev/{name}", "devtmpfs", "noexec nosuid rw" if crun else "rw") for name in _NODES}
        over = ("devtmpfs", "ro") if crun else ("devtmpfs", "rw") if self.userns else ("bind", "nosuid rw")
        return {
            ("/", "overlay", "rw"),
            ("/proc", "proc", f"{_SAFE} rw"),
            ("/sys", "sysfs", f"{_SAFE} ro"),
            ("/dev", "tmpfs", "nosuid rw"),
            ("/dev/.dms-executor-init", "bind", "nodev nosuid ro"),
            ("/dev/mqueue", "mqueue", f"{_SAFE} rw"),
            ("/dev/pts", "devpts", "noexec nosuid rw"),
            ("/dev/shm", "tmpfs", f"{_SAFE} rw"),
            *cgroups,
            *(bound if self.userns else ()),
            *((file, "bind", f"{_SAFE} ro") for file in _FILES),
            *((folder, "tmpfs", "ro") for folder in _there(_MASKED_FOLDERS)),
            *((file, *over) for file in _there(_MASKED_FILES)),
            *((place, "proc", "ro" if crun else f"{_SAFE} ro") for place in _there(_READ_ONLY)),
        }

    def _shown(self, init: Path) -> set[str]:
        # As with Docker, a job learns where its own files lie on the host, and nothing of others.
        own = {str(init), *(f"its folder/bundle{file.removeprefix('/etc')}" for file in _FILES)}
        return own | ({"/null"} if self.runtime == "runc" and not self.userns else set())

    def _nodes(self) -> set[tuple[str, ...]]:
        owner = "65534:65534" if self.userns else "0:0"
        nodes = {(f"/dev/{name}", number, "666", owner) for name, number in _NODES.items()}
        return {*nodes, ("/dev/pts/ptmx", "5:2", "666", "0:0")}

    def _links(self) -> set[str]:
        # To /proc/kcore, which is masked or missing: crun always makes it, runc where there is one, runsc never.
        made = self.runtime == "crun" or (self.runtime == "runc" and Path("/proc/kcore").exists())
        return {"core"} if made else set()


def _limits() -> dict[str, tuple[str, str]]:
    """The executor's own, no core files, and open files as everybody expects them: 1,024 of at most 2^19."""
    own = read_limits(_lines("/proc/self/limits"))
    hard = own["Max open files"][1]
    most = str(min(int(hard), 1 << 19)) if hard.isdecimal() else str(1 << 19)
    return {**own, "Max core file size": ("0", "0"), "Max open files": (str(min(1024, int(most))), most)}


def _own_maps() -> list[str]:
    return [" ".join(line.split()) for name in ("uid_map", "gid_map") for line in _lines(f"/proc/self/{name}")]


def _readable_by_plain_root() -> set[str]:
    # Without a user namespace the job's root may open what belongs to root; Docker does not mask these either.
    return set(_there(("/proc/pagetypeinfo", "/proc/slabinfo", "/proc/vmallocinfo")))


def _there(paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


def _is_unified() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _names(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _of(runtime: str) -> list[World]:
    return [
        World(name=runtime, settings={"runtime": runtime, "userns": "required"}, runtime=runtime),
        World(name=f"{runtime}-user", settings={"runtime": runtime, "userns": "required"}, runtime=runtime, user="app"),
        World(
            name=f"{runtime}-no-userns", settings={"runtime": runtime, "userns": "off"}, runtime=runtime, userns=False
        ),
    ]


WORLDS = [*_of("crun"), *_of("runc")]
