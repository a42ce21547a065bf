"""Warm snapshots: a guest that has booted and whose agent waits for a job, of which every job of the same shape is a
clone. So a start costs a restore, and a boot only once a shape.

<key>            a snapshot, whole: it appears by a rename; mtime: its last use
<key>.making     one that is being made, locked by its maker and by the monitor that writes it (`once.py`)
<key>.work       the folder of that monitor
<key>.refused    making it, or a start from it, failed: for a while nobody tries again

It is taken before the agent was told anything: no job's data is in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from ..engine import Report
from ..errors import ExecutorError
from ..processes import boot_id
from ..threads import finished
from ..types import Progress
from .once import made_once, sweep

__all__ = ["Template", "Templates", "key_of"]

_DEADLINE = 60.0  # seconds for a boot on a busy host
_REFUSED = 3600.0
_UNUSED = 30 * 86400.0
_MOST = 8  # snapshots in one folder,
_MOST_BYTES = 2 << 30  # and all of them together
_NOTE = "cold"  # native/vm_warm.c


class _RefusedMeanwhileError(Exception):
    """The one who made it before us could not."""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A shape of a machine. `key` tells all that matters of it (`key_of`); `take` boots one such guest, with a folder
    of its own, and writes its snapshot to a descriptor.
    """

    key: str
    take: Callable[[int, Path], Awaitable[None]]


class Templates:
    """Those of one folder, which processes and state folders may share."""

    def __init__(self, folder: Path, engine: str) -> None:
        self._folder = folder
        self._engine = engine
        self._log = logging.getLogger(f"dms_executor.{engine}")

    async def of(self, template: Template, report: Report) -> str | None:
        """The snapshot's path, made if it is not there; None: it cannot be had, and the job boots."""
        path = self._folder / template.key
        if await asyncio.to_thread(_is_refused, path):
            return None
        try:
            async with made_once(path) as fd:
                if fd is not None:
                    report(Progress(what="booting a guest for warm starts", done=0, total=1, unit="guests"))
                    await self._take(template, path, fd)
        except _RefusedMeanwhileError:
            return None
        except (ExecutorError, OSError, TimeoutError) as error:
            why = f"none was ready within {_DEADLINE:.0f} s" if isinstance(error, TimeoutError) else str(error)
            await self._refuse(path, f"no snapshot of a booted guest can be made, jobs boot: {why}")
            return None
        return os.fspath(path)

    async def look(self, path: str, folder: Path, execution_id: str) -> None:
        """Throws the snapshot away where the job in `folder` could not be started from it, and had to boot."""
        why = await asyncio.to_thread(_read, folder / _NOTE)
        if why is not None:
            text = f"the snapshot {Path(path).name[:12]} did not come to life, the job booted: {why}"
            await self._refuse(Path(path), text, execution_id)

    async def collect(self, age: float) -> int:
        """Takes away those that nobody used for `age` s, and what dead makers left; the bytes that this freed."""
        return await asyncio.to_thread(_trim, self._folder, age)

    async def _take(self, template: Template, path: Path, fd: int) -> None:
        work = path.with_name(f"{path.name}.work")
        if await asyncio.to_thread(_is_refused, path):
            raise _RefusedMeanwhileError
        try:
            await asyncio.to_thread(_make_anew, work)
            async with asyncio.timeout(_DEADLINE):
                await template.take(fd, work)
        finally:
            await finished(None, shutil.rmtree, work, ignore_errors=True)
        await asyncio.to_thread(_trim, self._folder, _UNUSED)

    async def _refuse(self, path: Path, text: str, execution_id: str = "") -> None:
        self._log.warning("%s", text, extra={"execution_id": execution_id, "engine": self._engine})
        with suppress(OSError):
            await asyncio.to_thread(_mark, path)


def key_of(words: Iterable[str], files: Iterable[str | Path]) -> str:
    """Of a machine's command line, of what these files are now, and of this boot of the host: neither the processor nor
    the rate of its time stamp counter changes within one. Blocks.
    """
    digest = hashlib.sha256(boot_id().encode())
    for word in words:
        digest.update(hashlib.sha256(word.encode()).digest())
    for file in files:
        found = Path(file).stat()
        digest.update(repr((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


def _refusal(path: Path) -> Path:
    return path.with_name(f"{path.name}.refused")


def _is_refused(path: Path) -> bool:
    try:
        return time.time() - _refusal(path).stat().st_mtime < _REFUSED
    except FileNotFoundError:
        return False


def _mark(path: Path) -> None:
    _refusal(path).touch(mode=0o600)
    path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _trim(folder: Path, age: float) -> int:
    """Also the least recently used beyond the bounds: of two that run at once each sees what the other leaves."""
    freed = sweep(folder, age)
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir() if folder.is_dir() else []:
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.suffix == ".work" and not path.with_suffix(".making").exists():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.suffix:
                found.append((status.st_mtime, status.st_blocks * 512, path))
    found.sort(reverse=True)
    total = 0
    for number, (_, size, path) in enumerate(found):
        total += size
        if number >= _MOST - 1 or total > _MOST_BYTES:
            path.unlink(missing_ok=True)
            freed += size
    return freed
