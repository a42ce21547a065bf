"""The power `copy`: a helper in the guest, beside the job."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..engine import EngineContext, Execution, Handle
from ..entering import JobFiles
from ..errors import CopyFailed, ExecutionNotRunning
from ..supervisor.address import address_of, wait_gone
from .execs import check_not_paused
from .files import GuestFiles
from .host import VmHost

__all__ = ["Copies"]


class Copies(JobFiles):
    """What the engine has of `engine.Copies`."""

    _context: EngineContext

    async def _ready(self) -> VmHost:
        raise NotImplementedError

    def _group(self, host: VmHost, x: Execution) -> str:
        raise NotImplementedError

    @asynccontextmanager
    async def _entered(self, x: Execution, h: Handle) -> AsyncIterator[GuestFiles]:
        host = await self._ready()
        await asyncio.to_thread(check_not_paused, x, host, self._group(host, x))
        try:
            yield GuestFiles(x.folder, self._context.state_dir)
        except CopyFailed as error:
            error.execution_id = x.id
            if error.errno == errno.ESRCH or not await asyncio.to_thread(_lives, h):
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            raise


def _lives(h: Handle) -> bool:
    address = address_of(h)
    return address is not None and not wait_gone(address, 0)
