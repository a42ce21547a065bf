"""What is left of a VM whose job is over, taken away: its shim, its cgroups, its network, its disks."""

from __future__ import annotations

import os
from pathlib import Path

from ..cgroups import Cgroups
from ..cgroups.emptying import empty_group
from ..engine import Execution
from ..errors import EngineUnreachable
from ..networks.ending import LEFTOVERS, kill_network
from ..processes import boot_id
from ..supervisor.address import ShimAddress, kill_shim, wait_gone
from ..supervisor.suspended import LOCK, RECORD
from ..trees import remove_tree
from .plan import FOLDER

__all__ = ["clear"]

_GONE = 5.0  # seconds for a shim to end once it was told to
_LEFTOVERS = (*LEFTOVERS, FOLDER, "control", "exec", "going", "pid", "exit.tmp", RECORD, LOCK)


def clear(x: Execution, cgroups: Cgroups, group: str, address: ShimAddress | None) -> None:
    """Idempotent. Raises `EngineUnreachable`. Blocks."""
    if address is not None and not wait_gone(address, _GONE) and not kill_shim(address, _GONE):
        raise EngineUnreachable(f"the shim {address.pid} cannot be killed", execution_id=x.id)
    busy = empty_group(cgroups, group)
    if busy:
        raise EngineUnreachable(f"cgroups cannot be removed: {busy}", execution_id=x.id)
    kill_network(x.folder, boot_id())
    _clear_folder(x.folder)


def _clear_folder(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(fd):
            if name in _LEFTOVERS or name.partition(".")[0] == FOLDER:
                remove_tree(fd, name)
    finally:
        os.close(fd)
