"""The power `copy`: which process is the job's first."""

from __future__ import annotations

import asyncio
import os

from ..engine import Execution, Handle
from ..entering import EnteredFiles
from ..errors import EngineUnreachable, ExecutionNotRunning
from ..processes import read_of
from ..supervisor.address import address_of, open_shim
from .check import check_power
from .host import Host

__all__ = ["Files"]

_BORN = 5.0  # seconds for the runtime to have written the pid of a job that runs, and to have left it to the shim
_LOOK = 0.01


class Files(EnteredFiles):
    """What the engine has of `engine.Copies`."""

    async def _ready(self) -> Host:
        raise NotImplementedError

    async def _first_process(self, x: Execution, h: Handle) -> int:
        check_power("copy", (await self._ready()).runtime.flavour, x.id)
        return await _opened(x, h)


async def _opened(x: Execution, h: Handle) -> int:
    try:
        async with asyncio.timeout(_BORN):
            # A job that has just begun: its runtime is about to end, and tells nobody.
            while (fd := await asyncio.to_thread(_open, x, h)) is None:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
            return fd
    except TimeoutError as error:
        raise EngineUnreachable("the job's first process cannot be found", execution_id=x.id) from error


def _open(x: Execution, h: Handle) -> int | None:
    """None: not yet. The shim is the parent of the job's first process, and of nobody else's."""
    address = address_of(h)
    shim = open_shim(address) if address is not None else None
    if address is None or shim is None:
        raise ExecutionNotRunning("its shim is gone", execution_id=x.id)
    try:
        pid = int((x.folder / "pid").read_text())
        fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ValueError):
        return None
    finally:
        os.close(shim)
    if _parent(fd) == address.pid:
        return fd
    os.close(fd)
    return None


def _parent(fd: int) -> int | None:
    data = read_of(fd, "stat")
    return int(data.rpartition(b")")[2].split()[1]) if data else None
