"""The power `copy`: a helper enters the job's namespaces and root, and packs or unpacks there.

So every path is resolved by the kernel as the job's own root user would have it resolved: links, mounts, read-only
volumes, ids and the size of the disk mean the same, and whatever a job does to its tree meanwhile leads nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..copying import Found, found
from ..engine import Execution, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning, ExecutorError
from ..supervisor import files
from ..supervisor.address import address_of, open_shim
from .check import check_power
from .host import Host

__all__ = ["Files"]

_BORN = 5.0  # seconds for the runtime to have written the pid of a job that runs, and to have left it to the shim
_LOOK = 0.01


class Files:
    """What the engine has of `Copies`."""

    async def _ready(self) -> Host:
        raise NotImplementedError

    async def look(self, x: Execution, h: Handle, path: bytes) -> Found:
        """What a path in the job is."""
        async with self._job(x, h) as job:
            return found(await files.look(path, job=job))

    async def archive_out(
        self, x: Execution, h: Handle, path: bytes, name: bytes, sink: int, *, follow: bool
    ) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        async with self._job(x, h) as job:
            return await files.pack(path, name, sink, follow=follow, job=job)

    async def archive_in(self, x: Execution, h: Handle, folder: bytes, source: int, *, keep_owner: bool) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        async with self._job(x, h) as job:
            return await files.unpack(folder, source, keep_owner=keep_owner, job=job)

    @asynccontextmanager
    async def _job(self, x: Execution, h: Handle) -> AsyncIterator[int]:
        """The opened folder in /proc of the job's first process; it never names another, whoever gets that pid."""
        check_power("copy", (await self._ready()).runtime.flavour, x.id)
        fd = await _opened(x, h)
        try:
            yield fd
        except ExecutorError as error:
            error.execution_id = x.id
            if not await asyncio.to_thread(_alive, fd):
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            raise
        finally:
            os.close(fd)


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
    data = _read(fd, "stat")
    return int(data.rpartition(b")")[2].split()[1]) if data else None


def _alive(fd: int) -> bool:
    return bool(_read(fd, "stat"))


def _read(fd: int, name: str) -> bytes:
    """https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; empty once the process is gone."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 16)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        return b""
    finally:
        os.close(file)
