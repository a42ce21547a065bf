"""The power `copy`: which process of the host's is the container's first.

The daemon's own archive calls follow links in the container's tree as they find them on the host, keep no holes, and
tell of nothing that they left out.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, ClassVar

from ..engine import Execution, Handle
from ..entering import EnteredFiles
from ..errors import ExecutionNotRunning, NotSupported
from ..processes import read_of

if TYPE_CHECKING:
    from .state import Inspected

__all__ = ["Copies", "can_copy"]


def can_copy() -> bool:
    """Only root enters what a daemon of root has made."""
    return os.geteuid() == 0


class Copies(EnteredFiles):
    """What the engine has of `engine.Copies`."""

    name: ClassVar[str]

    async def _first_process(self, x: Execution, h: Handle) -> int:
        if not can_copy():
            raise self._lacking(
                x, "copies out of and into a container need root", "Use an output volume, or `exec` with tar"
            )
        seen = await self._looked_at(h)
        if seen is None or not seen.state.running or not seen.state.pid:
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        fd = await asyncio.to_thread(_opened, seen.state.pid, seen.id)
        if fd is not None:
            return fd
        seen = await self._looked_at(h)
        if seen is None or not seen.state.running:
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        raise self._lacking(
            x,
            "the daemon's processes are not of this host as this process sees it",
            "Run the executor in the daemon's own pid namespace",
        )

    def _lacking(self, x: Execution, why: str, mend: str) -> NotSupported:
        return NotSupported(why, engine=self.name, what="copy", mend=mend, execution_id=x.id)

    async def _looked_at(self, h: Handle) -> Inspected | None:
        raise NotImplementedError


def _opened(pid: int, container: str) -> int | None:
    """None: that process is not, or no more, the container's; its control group bears the container's id."""
    try:
        fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if container.encode() in read_of(fd, "cgroup"):
        return fd
    os.close(fd)
    return None
