"""The control groups of a VM's monitor, by which it is counted, frozen and killed; no container runtime makes them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .host import VmHost

__all__ = ["join_files"]

_CONTROLLERS = frozenset({"cpu", "cpuacct", "memory", "pids", "freezer", "blkio"})  # of version 1
_COUNTED = ("cpu", "memory", "io", "pids")  # of version 2


def join_files(host: VmHost, group: str) -> list[str]:
    """The `cgroup.procs` of the VM's own cgroups, which are made here. Blocks."""
    files = []
    for hierarchy in host.cgroups.hierarchies:
        wanted = host.cgroups.mode == "v2" if hierarchy.version == 2 else bool(hierarchy.controllers & _CONTROLLERS)
        if wanted and hierarchy.writable:
            folder = Path(f"{hierarchy.mount}/{group}")
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if hierarchy.version == 2:
                _hand_down(Path(hierarchy.mount), folder)
            files.append(f"{folder}/cgroup.procs")
    return files


def _hand_down(mount: Path, folder: Path) -> None:
    """Has the parents give their controllers to `folder`.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#enabling-and-disabling

    One that is not to be had there is missing in the figures alone: the guest's kernel enforces the limits.
    """
    parents = list(folder.parents)
    for parent in reversed(parents[: parents.index(mount) + 1]):
        file = parent / "cgroup.subtree_control"
        given = file.read_text(encoding="ascii").split()
        for name in (parent / "cgroup.controllers").read_text(encoding="ascii").split():
            if name in _COUNTED and name not in given:
                with suppress(OSError):
                    file.write_text(f"+{name}", encoding="ascii")
