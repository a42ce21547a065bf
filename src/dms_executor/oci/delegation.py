"""The part of the control groups that an ordinary user was given: version 2 only.

A program below the user's own systemd gets a scope from it (`scope`), since that tree is the manager's. Elsewhere what
was delegated is the uppermost cgroup around this process in which it may make others: a service with Delegate=yes.
https://systemd.io/CGROUP_DELEGATION/, https://docs.kernel.org/admin-guide/cgroup-v2.html#delegation
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..cgroups import Cgroups, Hierarchy, limits_swap

__all__ = ["Delegated", "delegated", "given", "manager_of", "settle"]

_LIMITS = ("cpu", "memory", "pids")
_WANTED = frozenset((*_LIMITS, "io"))
_NONE = "No control group is delegated to this user. "
_LOGIN = (
    "Run it from a login of a systemd user session, or with `systemd-run --user --scope -p Delegate=yes`; a service "
    "takes Delegate=yes in its unit"
)
_V1 = "Version 1 of control groups cannot be delegated: boot with systemd.unified_cgroup_hierarchy=1"
_LEAF = "caller"


class Delegated(msgspec.Struct, frozen=True, kw_only=True):
    """`base`: the delegated cgroup below the mount, with a slash behind it. `mend`: why there is none, or less.

    `manager`: the cgroup of the user's systemd, which is to be asked for a scope. `alone`: this process is the only one
    in `base`, and must leave it for a leaf before its children can have controllers.
    """

    cgroups: Cgroups = Cgroups()
    base: str = ""
    mend: str = ""
    manager: str = ""
    alone: bool = False


def delegated(seen: Cgroups) -> Delegated:
    """Makes nothing. Blocks."""
    if seen.mode != "v2":
        return Delegated(mend=_NONE + _V1)
    hierarchy = seen.hierarchies[0]
    manager = manager_of(hierarchy)
    base = manager or _uppermost(hierarchy)
    if base is None:
        return Delegated(mend=_NONE + _LOGIN)
    folder = f"{hierarchy.mount}{base}"
    alone = _words(f"{folder}/cgroup.procs") == [str(os.getpid())]
    found = given(hierarchy, base, in_full=bool(manager) or alone)
    return msgspec.structs.replace(found, manager=manager, alone=alone)


def given(hierarchy: Hierarchy, base: str, *, in_full: bool = False) -> Delegated:
    """The cgroup `base`. `in_full`: with all that its children can be given, whoever lives in it. Blocks."""
    folder = f"{hierarchy.mount}{base}"
    controllers = frozenset(_words(f"{folder}/cgroup.subtree_control"))
    if in_full or not _words(f"{folder}/cgroup.procs"):
        controllers |= frozenset(_words(f"{folder}/cgroup.controllers")) & _WANTED
    own = msgspec.structs.replace(hierarchy, controllers=controllers, writable=True)
    missing = [name for name in _LIMITS if name not in controllers]
    mend = f"{base} has no controller {', '.join(missing)}: name it in Delegate= of user@.service, or of the unit"
    return Delegated(
        cgroups=Cgroups(hierarchies=(own,), swap=limits_swap((own,))),
        base=f"{base.strip('/')}/" if base.strip("/") else "",
        mend=mend if missing else "",
    )


def manager_of(hierarchy: Hierarchy) -> str:
    """The cgroup of the user's systemd if this process lives below it, or in a login beside it; else "". Blocks."""
    uid = os.getuid()
    login = f"/user.slice/user-{uid}.slice"
    manager = f"{login}/user@{uid}.service"
    if not hierarchy.own.startswith(f"{login}/") or not os.access(f"{hierarchy.mount}{manager}", os.W_OK):
        return ""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    is_reachable = runtime_dir.startswith("/") and os.access(f"{runtime_dir}/systemd/private", os.W_OK)
    return manager if is_reachable else ""


def settle(own: Delegated) -> Delegated:
    """Moves this process, alone in the delegated cgroup, into a leaf of it. Raises OSError. Blocks."""
    if not own.alone or own.manager:
        return own
    hierarchy = own.cgroups.hierarchies[0]
    leaf = f"{own.base}{_LEAF}"
    Path(hierarchy.mount, leaf).mkdir(mode=0o755, exist_ok=True)
    Path(hierarchy.mount, leaf, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    moved = msgspec.structs.replace(hierarchy, own=f"/{leaf}")
    return msgspec.structs.replace(own, cgroups=msgspec.structs.replace(own.cgroups, hierarchies=(moved,)))


def _uppermost(hierarchy: Hierarchy) -> str | None:
    """Delegated to this user are folder, `cgroup.procs` and `cgroup.subtree_control`."""
    found = None
    path = hierarchy.own.rstrip("/")
    while path:
        folder = f"{hierarchy.mount}{path}"
        files = (folder, f"{folder}/cgroup.procs", f"{folder}/cgroup.subtree_control")
        if not all(os.access(file, os.W_OK) for file in files):
            break
        found = path
        path = path.rpartition("/")[0]
    return found


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split()
    except OSError:
        return []
