"""The power `copy` where a job's processes are the host kernel's: a helper enters the job's namespaces and root.

It packs or unpacks there, so every path is resolved by the kernel as the job's own root user would have it resolved:
links, mounts, read-only volumes, ids and the size of the disk mean the same, and whatever a job does to its tree
meanwhile leads nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from .copying import Found, found
from .engine import Execution, Handle
from .errors import ExecutionNotRunning, ExecutorError
from .processes import read_of
from .supervisor import files

__all__ = ["EnteredFiles", "JobFiles"]


class JobFiles:
    """What an engine has of `engine.Copies`; it says itself what leads to the job's files."""

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

    def _entered(self, x: Execution, h: Handle) -> AbstractAsyncContextManager[files.Job]:
        """Raises `ExecutionNotRunning`, also for what goes wrong in the block since the job has ended."""
        raise NotImplementedError


class EnteredFiles(JobFiles):
    """Its files are reached by its first process; the engine says itself how that is found."""

    async def _first_process(self, x: Execution, h: Handle) -> int:
        """Its opened folder in /proc, which never names another process, whoever gets that pid."""
        raise NotImplementedError

    @asynccontextmanager
    async def _entered(self, x: Execution, h: Handle) -> AsyncIterator[files.Job]:
        fd = await self._first_process(x, h)
        try:
            yield fd
        except ExecutorError as error:
            error.execution_id = x.id
            if not await asyncio.to_thread(read_of, fd, "stat"):
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            raise
        finally:
            os.close(fd)
