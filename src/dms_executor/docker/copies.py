"""The power `copy`: a helper of ours enters the namespaces and the root of the container, and packs or unpacks there.

The daemon's own archive calls follow links in the container's tree as they find them on the host, keep no holes, and
tell of nothing that they left out. As on the engine oci the kernel resolves every path as the job's root would have it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

from ..copying import Found, found
from ..engine import Execution, Handle
from ..errors import ExecutionNotRunning, ExecutorError, NotSupported
from ..supervisor import files

if TYPE_CHECKING:
    from .state import Inspected

__all__ = ["Copies", "can_copy"]

_MOST = 1 << 16


def can_copy() -> bool:
    """Only root enters what a daemon of root has made."""
    return os.geteuid() == 0


class Copies:
    """What the engine has of `engine.Copies`."""

    name: ClassVar[str]

    async def look(self, x: Execution, h: Handle, path: bytes) -> Found:
        """What a path in the job is."""
        async with self._entered(x, h) as job:
            return found(await files.look(path, job=job))

    async def archive_out(
        self, x: Execution, h: Handle, path: bytes, name: bytes, sink: int, *, follow: bool
    ) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        async with self._entered(x, h) as job:
            return await files.pack(path, name, sink, follow=follow, job=job)

    async def archive_in(self, x: Execution, h: Handle, folder: bytes, source: int, *, keep_owner: bool) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        async with self._entered(x, h) as job:
            return await files.unpack(folder, source, keep_owner=keep_owner, job=job)

    @asynccontextmanager
    async def _entered(self, x: Execution, h: Handle) -> AsyncIterator[int]:
        """The folder in /proc of the container's first process; it never names another, whoever gets that pid."""
        if not can_copy():
            raise NotSupported(
                "copies out of and into a container need root",
                engine=self.name,
                what="copy",
                mend="Use an output volume, or `exec` with tar",
                execution_id=x.id,
            )
        fd = await self._first_process(x, h)
        try:
            yield fd
        except ExecutorError as error:
            error.execution_id = x.id
            if not await asyncio.to_thread(_read, fd, "stat"):
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            raise
        finally:
            os.close(fd)

    async def _first_process(self, x: Execution, h: Handle) -> int:
        seen = await self._looked_at(h)
        if seen is None or not seen.state.running or not seen.state.pid:
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        fd = await asyncio.to_thread(_opened, seen.state.pid, seen.id)
        if fd is not None:
            return fd
        seen = await self._looked_at(h)
        if seen is None or not seen.state.running:
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        raise NotSupported(
            "the daemon's processes are not of this host as this process sees it",
            engine=self.name,
            what="copy",
            mend="Run the executor in the daemon's own pid namespace",
            execution_id=x.id,
        )

    async def _looked_at(self, h: Handle) -> Inspected | None:
        raise NotImplementedError


def _opened(pid: int, container: str) -> int | None:
    """None: that process is not, or no more, the container's; its control group bears the container's id."""
    try:
        fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if container.encode() in _read(fd, "cgroup"):
        return fd
    os.close(fd)
    return None


def _read(fd: int, name: str) -> bytes:
    """Empty once the process is gone."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return b""
    try:
        return os.read(file, _MOST)
    except ProcessLookupError:
        return b""
    finally:
        os.close(file)
