"""The runtime's configuration, `config.json`: what Docker gives a container, or less.

https://github.com/opencontainers/runtime-spec/blob/main/config.md. It names only paths in the shim's room, a tmpfs
that exists in the shim's mount namespace alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..capabilities import MASKED_PATHS, READONLY_PATHS
from ..devices.grants import DeviceGrants
from ..limits import Limits
from ..networks.connecting import NAMESPACE
from ..volumes import Volume, Volumes
from .devices import device_mounts, device_rules
from .idranges import COUNT
from .process import INIT
from .room import SYSFS

__all__ = ["CPU_PERIOD", "NETWORK_FILES", "oci_config", "volume_path"]

CPU_PERIOD = 100_000  # microseconds; the kernel's default
NETWORK_FILES = ("hosts", "hostname", "resolv.conf")
_SHM = 64 << 20
# Beneath a /sys that an ordinary user can bind only with all that is mounted on it.
_BENEATH_SYS = ("/sys/fs", "/sys/kernel")

_SAFE = ["nosuid", "noexec", "nodev"]


def oci_config(
    *,
    room: str,
    process: dict[str, Any],
    hostname: str,
    network: str,
    cgroup: str | None,
    limits: Limits,
    volumes: Volumes,
    devices: DeviceGrants,
    read_only_root: bool,
    seccomp: dict[str, Any] | None,
    swap: bool,
    first_id: int | None = None,
    is_root: bool = True,
    kept: Mapping[str, list[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The whole configuration, of JSON types.

    `first_id`: of the job's range of ids; None: it has the runtime's. `is_root`: the runtime is root of the host.
    `cgroup` None: there is none to be had. `kept`: what the mount at that place in the room must keep.
    """
    # The kernel mounts a new sysfs only for the owner of the network namespace that it shows.
    foreign = network == "host" if not is_root else network != "none" and first_id is not None
    linux: dict[str, Any] = {
        "namespaces": _namespaces(network, room),
        "resources": _resources(limits, swap, device_rules(devices)) if cgroup is not None else {},
        "maskedPaths": [*MASKED_PATHS, *(_BENEATH_SYS if not is_root and network == "host" else ())],
        "readonlyPaths": list(READONLY_PATHS),
    }
    if cgroup is not None:
        linux["cgroupsPath"] = f"/{cgroup}"
    if first_id is not None:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": first_id, "size": COUNT}]
    if seccomp is not None:
        linux["seccomp"] = seccomp
    if devices.rdt is not None:
        linux["intelRdt"] = devices.rdt
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": f"{room}/root", "readonly": read_only_root},
        "hostname": hostname,
        # Our init last: nothing that the request names may cover it.
        "mounts": [
            *_system_mounts(f"{room}/{SYSFS}" if foreign else None, cgroup is not None),
            *_own_mounts(room, volumes, is_mapped=first_id is not None, kept=kept),
            *device_mounts(room, devices, kept),
            _mount(INIT, "bind", f"{room}/init", ["bind", "ro", "nosuid", "nodev"]),
        ],
        "linux": linux,
        **({"hooks": devices.hooks} if devices.hooks else {}),
    }


def volume_path(index: int) -> str:
    """Where the volume of that index lies in the room."""
    return f"volumes/{index}"


def _namespaces(network: str, room: str) -> list[dict[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount"]
    if network == "none":
        kinds.append("network")
    if os.path.exists("/proc/self/ns/cgroup"):  # noqa: PTH110
        kinds.append("cgroup")
    found = [{"type": kind} for kind in kinds]
    if network == "user":
        found.append({"type": "network", "path": f"{room}/{NAMESPACE}"})
    return found


def _resources(limits: Limits, swap: bool, rules: list[dict[str, Any]]) -> dict[str, Any]:
    # The runtimes add Docker's usual device nodes to this.
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}, *rules]}
    if limits.memory is not None:
        resources["memory"] = {"limit": limits.memory}
        if swap:
            # Memory and swap together, so that there is none beyond the limit.
            resources["memory"]["swap"] = limits.memory
    if limits.cpu is not None:
        resources["cpu"] = {"quota": max(1000, round(limits.cpu * CPU_PERIOD)), "period": CPU_PERIOD}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    return resources


def _system_mounts(sysfs: str | None, has_cgroup: bool) -> list[dict[str, Any]]:
    sys = _mount("/sys", "bind", sysfs, ["rbind", *_SAFE, "ro"]) if sysfs else None
    return [
        _mount("/proc", "proc", "proc", _SAFE),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        _mount("/dev/shm", "tmpfs", "shm", [*_SAFE, "mode=1777", f"size={_SHM}"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
        sys or _mount("/sys", "sysfs", "sysfs", [*_SAFE, "ro"]),
        *([_mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_SAFE, "relatime", "ro"])] if has_cgroup else []),
    ]


def _own_mounts(room: str, volumes: Volumes, *, is_mapped: bool, kept: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    targets = {mount.target for mount in volumes.mounts}
    mounts = [
        _volume_mount(room, index, mount, is_mapped, kept.get(volume_path(index), []))
        for index, mount in enumerate(volumes.mounts)
    ]
    # What a volume covers is the volume's.
    files = [name for name in NETWORK_FILES if not {f"/etc/{name}", "/etc"} & targets]
    options = ["bind", "ro", *_SAFE]
    return [*(_mount(f"/etc/{name}", "bind", f"{room}/bundle/{name}", options) for name in files), *mounts]


def _volume_mount(room: str, index: int, volume: Volume, is_mapped: bool, kept: list[str]) -> dict[str, Any]:
    if volume.grant is None:
        size = [f"size={volume.size}"] if volume.size is not None else []
        return _mount(volume.target, "tmpfs", "tmpfs", ["nosuid", "nodev", "mode=1777", *size])
    # The shim's mount has these already, and what the host's has beside them (noexec) may not be taken away in a user
    # namespace.
    options = ["rbind", "rprivate"]
    if not is_mapped:
        options += ["nosuid", "nodev", "ro" if volume.read_only else "rw", *kept]
    return _mount(volume.target, "bind", f"{room}/{volume_path(index)}", options)


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
