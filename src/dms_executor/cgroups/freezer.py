"""Pausing by the kernel's freezer.

https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html
"""

from __future__ import annotations

import asyncio
import errno

from ..errors import EngineUnreachable, NotSupported
from .hierarchies import Cgroups

__all__ = ["freeze"]

_DEADLINE = 5.0
_LOOK = 0.005  # version 1 tells nobody that the freezing is done


async def freeze(cgroups: Cgroups, group: str, frozen: bool, *, engine: str) -> None:
    """Returns once all of the group stands still, or goes on. Raises FileNotFoundError where it is gone."""
    file = cgroups.freezer(group)
    if file is None:
        raise NotSupported("this host has no freezer", engine=engine, what="pause", mend="Mount the freezer controller")
    await asyncio.to_thread(_write, file[0], file[1 if frozen else 2])
    try:
        async with asyncio.timeout(_DEADLINE):
            while (state := await asyncio.to_thread(cgroups.is_frozen, group)) is not frozen:
                if state is None:
                    raise FileNotFoundError(file[0])
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise EngineUnreachable(f"the job did not {'stand still' if frozen else 'go on'} in {_DEADLINE:g} s") from error


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        # The cgroup went between the two calls.
        if error.errno == errno.ENODEV:
            raise FileNotFoundError(path) from error
        raise
