"""Pausing by the kernel's freezer, and waiting for a process that is no child: what takes an event of the kernel's.

https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html
"""

from __future__ import annotations

import asyncio
import errno
import os

from ..errors import EngineUnreachable, NotSupported
from . import undo
from .cgroups import Cgroups
from .plan import ShimAddress

__all__ = ["freeze", "process_gone"]

_DEADLINE = 5.0
_LOOK = 0.005  # version 1 tells nobody that the freezing is done


async def freeze(cgroups: Cgroups, group: str, frozen: bool) -> None:
    """Returns once all of the group stands still, or goes on. Raises FileNotFoundError where it is gone."""
    file = cgroups.freezer(group)
    if file is None:
        raise NotSupported("this host has no freezer", engine="oci", what="pause", mend="Mount the freezer controller")
    await asyncio.to_thread(_write, file[0], file[1 if frozen else 2])
    try:
        async with asyncio.timeout(_DEADLINE):
            while (state := await asyncio.to_thread(cgroups.is_frozen, group)) is not frozen:
                if state is None:
                    raise FileNotFoundError(file[0])
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise EngineUnreachable(f"the job did not {'stand still' if frozen else 'go on'} in {_DEADLINE:g} s") from error


async def process_gone(address: ShimAddress) -> None:
    """Waits, without a thread, for the end of that very process."""
    fd = await asyncio.to_thread(undo.open_shim, address)
    if fd is None:
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, gone)
    try:
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _resolve(gone: asyncio.Future[None]) -> None:
    if not gone.done():
        gone.set_result(None)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        # The cgroup went between the two calls.
        if error.errno == errno.ENODEV:
            raise FileNotFoundError(path) from error
        raise
