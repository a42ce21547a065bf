"""The host's control groups: version 1, version 2, or both beside each other (hybrid).

What is mounted where is read from `/proc/self/mountinfo` and never assumed. The runtime makes the job's cgroups by
the path that we name; everything here is about finding them again: limits, usage, freezing, killing, removing.
https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/index.html
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Cgroups", "Hierarchy", "Source", "detect", "limits_swap", "make_shims_group", "parse", "usable_controllers"]

# The controllers that a limit needs, by version 1 name; version 2 calls blkio io, and has cpuacct and freezer built in.
_NEEDED = {"cpu": "cpu", "memory": "memory", "pids": "pids"}


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted hierarchy. `own`: the cgroup of this process in it, as it stands below the mount."""

    mount: str
    version: Literal[1, 2]
    controllers: frozenset[str]
    own: str = "/"
    writable: bool = True


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One number of a job's usage: `field` in the file `path`; an empty field is the file's first number."""

    key: str
    path: str
    field: str = ""


class Cgroups(msgspec.Struct, frozen=True, kw_only=True):
    """All hierarchies. `swap`: the kernel can limit memory and swap together."""

    hierarchies: tuple[Hierarchy, ...] = ()
    swap: bool = False

    @property
    def mode(self) -> Literal["v1", "v2", "hybrid", "none"]:
        versions = {hierarchy.version for hierarchy in self.hierarchies}
        if versions == {1, 2}:
            return "hybrid"
        return "v2" if versions == {2} else "v1" if versions == {1} else "none"

    @property
    def limits(self) -> frozenset[str]:
        """Which of cpu, memory, pids can be enforced."""
        return frozenset(limit for limit, controller in _NEEDED.items() if self._writable(controller))

    @property
    def unified_mounts(self) -> tuple[str, ...]:
        """Where version 2 is mounted beside version 1."""
        if self.mode != "hybrid":
            return ()
        return tuple(hierarchy.mount for hierarchy in self.hierarchies if hierarchy.version == 2)

    def folders(self, path: str, without: Sequence[str] = ()) -> list[str]:
        """The cgroup `path` in each hierarchy that is not mounted on one of `without`."""
        return [f"{each.mount}/{path}" for each in self.hierarchies if each.mount not in without]

    def usage(self, path: str) -> list[Source]:
        """Where the usage of the cgroup `path` is read."""
        if self.mode == "v2":
            return _usage_v2(f"{self.hierarchies[0].mount}/{path}")
        found = []
        for controller, file, key, field in _USAGE_V1:
            folder = self._folder(controller, path)
            if folder is not None:
                found.append(Source(key=key, path=f"{folder}/{file}", field=field))
        return found

    def freezer(self, path: str) -> tuple[str, str, str] | None:
        """File, text that freezes and text that thaws; None where nothing can."""
        if self.mode == "v2":
            return f"{self.hierarchies[0].mount}/{path}/cgroup.freeze", "1", "0"
        folder = self._folder("freezer", path)
        return (f"{folder}/freezer.state", "FROZEN", "THAWED") if folder else None

    def is_frozen(self, path: str) -> bool | None:
        """True once all of the job stands still; None where there is no such cgroup."""
        if self.mode == "v2":
            words = _words(f"{self.hierarchies[0].mount}/{path}/cgroup.events")
            return None if words is None else _value(words, "frozen") == "1"
        folder = self._folder("freezer", path)
        words = _words(f"{folder}/freezer.state") if folder else None
        return None if words is None else words == ["FROZEN"]

    def processes(self, path: str) -> set[int]:
        """All processes in the cgroup `path` and below it, in any hierarchy."""
        found: set[int] = set()
        for folder in self.folders(path):
            for level, _, _ in os.walk(folder, followlinks=False):
                found.update(int(word) for word in _words(f"{level}/cgroup.procs") or [])
        return found - {0}

    def kill(self, path: str) -> bool:
        """`cgroup.kill` (version 2, Linux 5.14); False where it is not there."""
        if self.mode != "v2":
            return False
        return _write(f"{self.hierarchies[0].mount}/{path}/cgroup.kill", "1")

    def remove(self, path: str) -> list[str]:
        """Removes the cgroup `path` and those below it everywhere; returns the folders that are still busy."""
        return [folder for folder in self.folders(path) if not _remove(folder)]

    def joins(self, path: str) -> list[str]:
        """The `cgroup.procs` files by which a shim leaves its caller's cgroups for `path`.

        Only where the caller is in a cgroup of its own that somebody could kill: nobody kills the root, and each
        move costs the kernel a grace period. Already in `path`: nothing to leave.
        """
        files = []
        for hierarchy in self.hierarchies:
            if hierarchy.own not in ("/", f"/{path}"):
                files.append(f"{hierarchy.mount}/{path}/cgroup.procs")
        return files

    def own_procs(self) -> str | None:
        """The `cgroup.procs` of this process in the first hierarchy that can be written."""
        for hierarchy in self.hierarchies:
            if hierarchy.writable:
                return f"{hierarchy.mount}{hierarchy.own.rstrip('/')}/cgroup.procs"
        return None

    def _folder(self, controller: str, path: str) -> str | None:
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers and hierarchy.version == 1:
                return f"{hierarchy.mount}/{path}"
        return None

    def _writable(self, controller: str) -> bool:
        # In hybrid mode the runtimes use version 1 only.
        version = 2 if self.mode == "v2" else 1
        return any(
            hierarchy.writable and hierarchy.version == version and controller in hierarchy.controllers
            for hierarchy in self.hierarchies
        )


_USAGE_V1 = (
    ("cpuacct", "cpuacct.usage", "cpu_ns", ""),
    ("memory", "memory.max_usage_in_bytes", "memory_peak", ""),
    ("memory", "memory.oom_control", "oom_kills", "oom_kill"),
    ("blkio", "blkio.throttle.io_service_bytes", "io_read", "Read"),
    ("blkio", "blkio.throttle.io_service_bytes", "io_write", "Write"),
)


def _usage_v2(folder: str) -> list[Source]:
    return [
        Source(key="cpu_us", path=f"{folder}/cpu.stat", field="usage_usec"),
        Source(key="memory_peak", path=f"{folder}/memory.peak"),  # Linux 5.19
        Source(key="oom_kills", path=f"{folder}/memory.events", field="oom_kill"),
        Source(key="io_read", path=f"{folder}/io.stat", field="rbytes"),
        Source(key="io_write", path=f"{folder}/io.stat", field="wbytes"),
    ]


def detect() -> Cgroups:
    """What this process sees. Blocks for a handful of small reads."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    found = parse(mountinfo, Path("/proc/self/cgroup").read_text(errors="surrogateescape"))
    hierarchies = tuple(_inspected(hierarchy) for hierarchy in found.hierarchies)
    return Cgroups(hierarchies=hierarchies, swap=limits_swap(hierarchies))


def parse(mountinfo: str, own: str, controllers: Mapping[str, frozenset[str]] | None = None) -> Cgroups:
    """From the text of `mountinfo` and `/proc/self/cgroup`. `controllers`: of version 2, by mount.

    https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    groups = _own_groups(own)
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if len(fields) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        mount, root = _unescaped(fields[4]), _unescaped(fields[3])
        writable = "ro" not in fields[5].split(",") and "ro" not in tail[2].split(",")
        if tail[0] == "cgroup2":
            key = frozenset({""})
            known = (controllers or {}).get(mount, frozenset())
            hierarchy = Hierarchy(mount=mount, version=2, controllers=known, writable=writable)
        else:
            key = _v1_controllers(tail[2])
            hierarchy = Hierarchy(mount=mount, version=1, controllers=key, writable=writable)
        current = _below(groups.get(key, "/"), root)
        # Mounted twice: the first one counts, unless only a later one can be written.
        if key not in found or (writable and not found[key].writable):
            found[key] = msgspec.structs.replace(hierarchy, own=current)
    return Cgroups(hierarchies=tuple(found.values()))


def make_shims_group(cgroups: Cgroups, path: str) -> list[str]:
    """Makes the cgroup in which shims live, where they have to leave their caller's; returns the files to join by."""
    joins = []
    for file in cgroups.joins(path):
        folder = file.rpartition("/")[0]
        try:
            Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError:
            continue  # a read-only hierarchy: the shim stays where it is there
        _copy_cpuset(folder, path)
        joins.append(file)
    return joins


def _copy_cpuset(folder: str, path: str) -> None:
    """A version 1 cpuset takes nobody in before it has CPUs and memory nodes.

    https://docs.kernel.org/admin-guide/cgroup-v1/cpusets.html
    """
    levels = [Path(folder)]
    for _ in range(path.count("/")):
        levels.insert(0, levels[0].parent)
    for level in levels:
        for name in ("cpuset.cpus", "cpuset.mems"):
            words = _words(str(level / name))
            if words == []:
                _write(str(level / name), " ".join(_words(str(level.parent / name)) or []))


def _inspected(hierarchy: Hierarchy) -> Hierarchy:
    writable = hierarchy.writable and os.access(hierarchy.mount, os.W_OK)
    controllers = hierarchy.controllers
    if hierarchy.version == 2:
        controllers = usable_controllers(hierarchy.mount)
    return msgspec.structs.replace(hierarchy, writable=writable, controllers=controllers)


def usable_controllers(mount: str) -> frozenset[str]:
    """Those of version 2 that a child of the cgroup mounted there can have.

    In a container that mount is no root of the kernel's: while a process lives in it, it can give its children no more
    than it does already. https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint
    """
    offered = frozenset(_words(f"{mount}/cgroup.controllers") or [])
    is_root = not os.access(f"{mount}/cgroup.type", os.F_OK)
    if is_root or not _words(f"{mount}/cgroup.procs"):
        return offered
    return offered & frozenset(_words(f"{mount}/cgroup.subtree_control") or [])


def limits_swap(hierarchies: tuple[Hierarchy, ...]) -> bool:
    """Whether the kernel can limit swap: one without swap, or booted with `swapaccount=0`, has no such file."""
    for hierarchy in hierarchies:
        if hierarchy.version == 1 and "memory" in hierarchy.controllers:
            return os.access(f"{hierarchy.mount}/memory.memsw.limit_in_bytes", os.F_OK)
    # Version 2: in every cgroup but the root. Where none has the memory controller yet, nearly every kernel has it.
    for hierarchy in hierarchies:
        if hierarchy.version == 2 and "memory" in hierarchy.controllers:
            mount = Path(hierarchy.mount)
            return any(mount.glob("*/memory.swap.max")) or not any(mount.glob("*/memory.max"))
    return False


def _own_groups(own: str) -> dict[frozenset[str], str]:
    groups: dict[frozenset[str], str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        groups[frozenset(controllers.split(","))] = path
    return groups


def _v1_controllers(options: str) -> frozenset[str]:
    flags = {"rw", "ro", "clone_children", "xattr", "noprefix", "none", "release_agent"}
    words = [word for word in options.split(",") if word not in flags and not word.startswith("release_agent=")]
    return frozenset(words)


def _below(path: str, root: str) -> str:
    """`path` as seen below a mount that shows only `root` (a container without a cgroup namespace)."""
    if root == "/":
        return path
    if path == root:
        return "/"
    return path[len(root) :] if path.startswith(root + "/") else path


def _unescaped(field: str) -> str:
    # mountinfo writes space, tab, newline and backslash as three octal digits.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def _remove(folder: str) -> bool:
    for level in _bottom_up(folder):
        try:
            Path(level).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY, errno.EROFS):
                return False
            raise
    return True


def _bottom_up(folder: str) -> Iterator[str]:
    for level, _, _ in os.walk(folder, topdown=False, followlinks=False):
        yield level


def _words(path: str) -> list[str] | None:
    try:
        with open(path, "rb") as file:
            return file.read().decode("ascii", "replace").split()
    except OSError:
        return None


def _value(words: list[str], name: str) -> str | None:
    for word, value in zip(words[::2], words[1::2], strict=False):
        if word == name:
            return value
    return None


def _write(path: str, text: str) -> bool:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return False
    return True
