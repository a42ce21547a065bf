"""Warm snapshots: a guest that has booted and whose agent waits for a job, of which every job of the same shape is a
clone. So a start costs a restore, and a boot only once a shape.

<key>            a snapshot, whole: it appears by a rename; mtime: its last use
<key>.making     one that is being made, locked by its maker and by the monitor that writes it (`once.py`)
<key>.work       the folder of that monitor
<key>.refused    making it, or a start from it, failed: for a while nobody tries again

All of this lies in a folder that is ours alone: what is swept there is never somebody else's.

It is taken before the agent was told anything: no job's data is in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from ..engine import Report
from ..processes import boot_id
from ..threads import finished
from ..types import Progress
from .once import made_once, sweep, unmade

__all__ = ["Template", "Templates", "key_of_guest", "open_snapshot", "own_folder"]

_DEADLINE = 60.0  # seconds for a boot on a busy host, and for another maker's
_LATELY = 300.0  # seconds: who used one then may come again
_REFUSED = 3600.0
_UNUSED = 30 * 86400.0
_AT_ONCE = 2  # that a process makes: each is one more VM than the jobs'
_MOST = 8  # snapshots in one folder,
_MOST_BYTES = 2 << 30  # and all of them together
_NOTE = "cold"  # native/vm_warm.c


class _OthersFirstError(Exception):
    """The one who made it before us could not, or the place is taken: it is no fault of the shape."""


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
        self._making: dict[str, asyncio.Future[str | None]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def of(self, template: Template, report: Report, limit: float | None = None) -> str | None:
        """The snapshot's path, made if it is not there; None: it cannot be had, and the job boots.

        A making goes on when who asked for it is cancelled or has waited enough: the next job finds it made. No
        more is waited than half of `limit` s, those of the whole preparation.
        """
        making = self._making.get(template.key)
        if making is None:
            making = self._making[template.key] = asyncio.ensure_future(self._of(template, report))
            making.add_done_callback(lambda _: self._making.pop(template.key, None))
        done, _ = await asyncio.wait([making], timeout=_DEADLINE if limit is None else min(_DEADLINE, limit / 2))
        return making.result() if done and not making.cancelled() else None

    async def close(self) -> None:
        """Gives up what is being made."""
        makings = list(self._making.values())
        for making in makings:
            making.cancel()
        await asyncio.gather(*makings, return_exceptions=True)

    async def _of(self, template: Template, report: Report) -> str | None:
        path = self._folder / template.key
        try:
            if await asyncio.to_thread(_is_refused, path):
                return None
            await asyncio.to_thread(_make_ours, self._folder)
            async with AsyncExitStack() as stack:
                fd = await self._turn(stack, path)
                if fd is None:
                    return os.fspath(path)
                if fd == -1 or await asyncio.to_thread(_is_full, self._folder):
                    raise _OthersFirstError
                report(Progress(what="booting a guest for warm starts", done=0, total=1, unit="guests"))
                async with self._turns:
                    await self._take(template, path, fd)
        except _OthersFirstError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is: a job that can boot does not fail of it
            why = f"none was ready within {_DEADLINE:.0f} s" if isinstance(error, TimeoutError) else str(error)
            await self._refuse(path, f"no snapshot of a booted guest can be made, jobs boot: {why}")
            return None
        return os.fspath(path)

    async def _turn(self, stack: AsyncExitStack, path: Path) -> int | None:
        """-1: another maker holds it for too long, which says nothing against the shape."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return await stack.enter_async_context(made_once(path))
        except TimeoutError:
            return -1

    async def look(self, path: str, folder: Path, execution_id: str) -> None:
        """Throws the snapshot away where the job in `folder` could not be started from it, and had to boot."""
        why = await asyncio.to_thread(_read, folder / _NOTE)
        if why is not None:
            text = f"the snapshot {Path(path).name[:12]} did not come to life, the job booted: {why}"
            await self._refuse(Path(path), text, execution_id)

    async def collect(self, age: float) -> int:
        """Takes away those that nobody used for `age` s, and what dead makers left; the bytes that this freed."""
        return await asyncio.to_thread(_trim, self._folder, age, _MOST)

    async def _take(self, template: Template, path: Path, fd: int) -> None:
        work = path.with_name(f"{path.name}.work")
        if await asyncio.to_thread(_is_refused, path):
            raise _OthersFirstError
        if not _is_private(os.fstat(fd)):
            raise PermissionError(f"{path.name}.making is not ours alone")
        try:
            await asyncio.to_thread(_make_anew, work)
            async with asyncio.timeout(_DEADLINE):
                await template.take(fd, work)
        finally:
            await finished(None, shutil.rmtree, work, ignore_errors=True)
        await asyncio.to_thread(_trim, self._folder, _UNUSED, _MOST - 1)

    async def _refuse(self, path: Path, text: str, execution_id: str = "") -> None:
        self._log.warning("%s", text, extra={"execution_id": execution_id, "engine": self._engine})
        with suppress(OSError):
            await asyncio.to_thread(_mark, path)


def own_folder(given: str | None, cache: Path) -> Path:
    """Where snapshots lie: in a folder that the user gave we keep to one of our own."""
    return Path(given) / "dms-executor-warm" if given else cache


def open_snapshot(path: str | Path, *, is_lent: bool = False) -> int | None:
    """To be read; None: it is gone, or it is not ours alone, and the job boots. Blocks.

    `is_lent`: monitors have further names of it, and may read it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # least recently used, and gone meanwhile; or its folder cannot be read any more
        return None
    status = os.fstat(fd)
    if _is_ours_alone(status) if is_lent else _is_private(status):
        return fd
    os.close(fd)
    return None


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


def key_of_guest(words: Iterable[str], program: str, kernel: str, initrd: str, cache: Path) -> str:
    """`key_of` a monitor's `program` and what the guest boots. What lies below `cache`, ours, is named by what it is,
    and touched by whoever uses it. Blocks.
    """
    files = [Path(kernel), Path(initrd)]
    cached = [file for file in files if file.is_relative_to(cache)]
    named = [*words, *(file.name for file in cached)]
    return key_of(named, [program, *(file for file in files if file not in cached)])


def _refusal(path: Path) -> Path:
    return path.with_name(f"{path.name}.refused")


def _is_refused(path: Path) -> bool:
    try:
        age = time.time() - _refusal(path).stat().st_mtime
        return 0 <= age < _REFUSED  # not for longer where the clock was set back
    except FileNotFoundError:
        return False


def _mark(path: Path) -> None:
    _make_ours(path.parent)
    _refusal(path).touch(mode=0o600)
    path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _is_ours_alone(status: os.stat_result) -> bool:
    """Nobody else writes to it."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_private(status: os.stat_result) -> bool:
    return _is_ours_alone(status) and status.st_nlink == 1 and not status.st_mode & 0o077


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _make_ours(folder: Path) -> None:
    """Raises `PermissionError`: who else may write there would decide what runs in the guests."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"{folder} is not a folder that its owner, who we are, alone may write to")
    folder.chmod(0o700)  # what a guest's memory holds is for nobody else to read


def _is_full(folder: Path) -> bool:
    """Of such as were used lately: each would be missed."""
    late, found = time.time() - _LATELY, 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found += not path.suffix and path.stat().st_mtime > late
    return found >= _MOST


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _trim(folder: Path, age: float, most: int) -> int:
    """Also the least recently used beyond the bounds: of two that run at once each sees what the other leaves."""
    if not _is_ours(folder):
        return 0
    # One that was last used before the host booted has the key of another boot: nobody will use it again.
    freed = sweep(folder, min(age, _uptime()))
    found: list[tuple[float, int, Path]] = []
    for path in list(folder.iterdir()):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.suffix == ".work":
                with unmade(path.with_suffix("")) as is_dead:
                    if is_dead:
                        shutil.rmtree(path, ignore_errors=True)
            elif not path.suffix:
                found.append((status.st_mtime, status.st_blocks * 512, path))
    found.sort(reverse=True)
    total = 0
    for number, (_, size, path) in enumerate(found):
        total += size
        if number >= most or total > _MOST_BYTES:
            path.unlink(missing_ok=True)
            freed += size
    return freed
