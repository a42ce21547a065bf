"""What `destroy` does once a shim was told to end: processes, cgroups, the range of ids, folders, pins.

All of it by names made from the token, and so as often as it takes.
"""

from __future__ import annotations

import asyncio

from ..cgroups.emptying import empty_group
from ..engine import Execution
from ..errors import EngineUnreachable
from ..images import ImageStore
from ..networks.ending import kill_network
from ..processes import boot_id
from ..supervisor.address import ShimAddress, kill_shim, wait_gone
from ..supervisor.record import read_exit
from . import idranges, inside, undo
from .host import Host
from .strays import kill_strays

__all__ = ["cleared", "emptied"]

_GONE = 5.0  # seconds for a shim to end once it was told to


async def cleared(
    x: Execution, host: Host, group: str, address: ShimAddress | None, first_id: int | None, store: ImageStore
) -> None:
    """Raises `EngineUnreachable` for what does not go, `ResourcesUnavailable`."""
    done = await asyncio.to_thread(_clear, x, host, group, address, first_id, store)
    if not done and host.rootless is not None:
        await inside.clear(host.rootless, x.folder)
        await asyncio.to_thread(_clear, x, host, group, address, first_id, store)


def emptied(x: Execution, host: Host, group: str) -> list[str]:
    """Kills what is left of the job; the folders of its cgroup that stayed. Blocks."""
    if host.without_cgroups and read_exit(x.folder) is None:
        kill_strays(x.token)
    return empty_group(host.cgroups, group)


def _clear(
    x: Execution, host: Host, group: str, address: ShimAddress | None, first_id: int | None, store: ImageStore
) -> bool:
    """False: files of other ids are left, for `inside.clear`."""
    if address is not None and not wait_gone(address, _GONE) and not kill_shim(address, _GONE):
        raise EngineUnreachable(f"the shim {address.pid} cannot be killed", execution_id=x.id)
    busy = emptied(x, host, group)
    if busy:
        raise EngineUnreachable(f"cgroups cannot be removed: {busy}", execution_id=x.id)
    if first_id is not None or not host.no_userns:
        idranges.release(group, first_id)
    kill_network(x.folder, boot_id())
    try:
        undo.clear_folder(x.folder)
    except PermissionError:
        if host.rootless is None:
            raise
        return False
    store.unpin(x.token)
    return True
