"""What a job in gVisor's sandbox may see: a kernel of its own, so that what it may write is not the host's.

The sandbox's version is the one that `scripts/runsc` installs; another may show other files of its own.
"""

from __future__ import annotations

from typing import Any

from ..runsc import program
from .worlds import World

__all__ = ["SANDBOX"]

_GROUPS: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"),
    "cpuacct": (),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "devices": ("devices.allow", "devices.deny"),
    "job": ("job.id",),
    "memory": (
        *("memory.limit_in_bytes", "memory.move_charge_at_immigrate", "memory.pressure_level"),
        "memory.soft_limit_in_bytes",
    ),
    "pids": ("pids.max",),
}
_SYSCTLS = (
    *("fs/nr_open", "kernel/keys/maxkeys", "kernel/pid_max", "kernel/yama/ptrace_scope"),
    *(f"net/ipv4/{name}" for name in ("ip_local_port_range", "tcp_recovery", "tcp_rmem", "tcp_sack", "tcp_wmem")),
)
_CAPABILITIES = "00000000a00405fb"  # as in a container, without NET_RAW
_SAFE = "noexec nosuid"


def _privileges(usual: dict[str, str]) -> dict[str, str]:
    # Its kernel tells neither ambient capabilities nor no_new_privileges.
    told = {name: value for name, value in usual.items() if name not in ("CapAmb", "NoNewPrivs")}
    return told | dict.fromkeys(("CapBnd", "CapEff", "CapPrm"), _CAPABILITIES)


def _limits(usual: dict[str, Any]) -> dict[str, Any]:
    own = {"Max locked memory": ("65536", "65536"), "Max pending signals": ("0", "0"), "Max processes": ("64", "64")}
    return {**usual, **own}


def _namespaces(usual: dict[str, str]) -> dict[str, str]:
    return {kind: "its own" for kind in usual if kind not in ("cgroup", "time")} | {"user": "its own"}


SANDBOX = World(
    name="runsc",
    settings={"runtime": program("runsc")},
    runtime="runsc",
    userns=False,
    differs={
        "privileges": _privileges,
        "ids": ["0 0 4294967295"] * 2,
        "namespaces": _namespaces,
        "limits": _limits,
        "cgroup": {"/its token"},
        "bounds": ["max", str(2**63 - 1)],  # they hold for the sandbox as a whole, in the host's cgroup
        "/dev": lambda usual: usual - {"mqueue"} | {"net", "fuse"},
        "device nodes": lambda usual: (
            usual | {("/dev/fuse", "a:e5", "666", "0:0"), ("/dev/net/tun", "a:c8", "666", "0:0")}
        ),
        "mounts": {
            ("/", "9p", "rw"),
            ("/dev", "dev", "nosuid rw"),
            ("/dev/.dms-executor-init", "9p", "nosuid ro"),
            ("/dev/pts", "devpts", f"{_SAFE} rw"),
            ("/dev/shm", "tmpfs", f"{_SAFE} rw"),
            *((f"/etc/{name}", "9p", f"{_SAFE} ro") for name in ("hostname", "hosts", "resolv.conf")),
            ("/proc", "proc", f"{_SAFE} rw"),
            ("/sys", "sysfs", f"{_SAFE} ro"),
            ("/sys/fs/cgroup", "tmpfs", f"{_SAFE} ro"),
            ("/sys/fs/cgroup/*", "cgroup", "rw"),
            ("/tmp", "tmpfs", "rw"),
        },
        "shown paths": set(),
        "secrets": set(),
        "writable kernel files": {
            "/proc/sysrq-trigger",
            *(f"/proc/sys/{name}" for name in _SYSCTLS),
            *(
                f"/sys/fs/cgroup/{group}/{name}"
                for group, own in _GROUPS.items()
                for name in (*own, "cgroup.procs", "tasks")
            ),
        },
    },
)
