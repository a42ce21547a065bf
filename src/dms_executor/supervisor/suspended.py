"""An execution that is saved to disk: no process of it is left, its folder has all that goes on one day.

The shim puts the file `suspended` there when it ends (docs/protocol.md, section 4), and the one that goes on takes it
away just before anything runs again. In between the folder belongs to whoever holds its lock.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import (
    EngineUnreachable,
    ExecutionNotRunning,
    ExecutorError,
    NotSupported,
    ResourcesUnavailable,
    SnapshotFailed,
    StateDamaged,
)
from ..logs.inotify import APPEARED, Watcher
from ..typed import known

__all__ = [
    "LOCK",
    "RECORD",
    "Suspended",
    "Suspensions",
    "end_suspended",
    "is_suspended",
    "read_suspended",
    "why_not_saved",
]

RECORD = "suspended"
LOCK = "suspended.lock"
_MEND_BUSY = "End the commands, copies and attachments that are open in it, and let the job read its input"
_LOST = "it was saved to disk when it was ended: what it had not brought home is gone"
_LOOK = 0.02  # seconds between two tries to get the lock
_HELD = 2100.0  # seconds, which a restore never takes
_LONGEST = 3600.0  # seconds of one wait: clocks are set


class Suspended(msgspec.Struct, frozen=True):
    """The record. Stamps are ns since the epoch."""

    version: int
    started_at: int
    suspended_at: int

    def left(self, timeout: float | None) -> float | None:
        """Seconds until the execution's timeout, which goes on while it is saved; None: it has none."""
        return None if timeout is None else timeout - (time.time_ns() - self.started_at) / 1e9


def is_suspended(folder: Path) -> bool:
    """Blocks."""
    return (folder / RECORD).exists()


def read_suspended(folder: Path) -> Suspended | None:
    """None where it is not saved. Raises `StateDamaged`. Blocks."""
    try:
        data = (folder / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(data, type=known(Suspended))
    except msgspec.MsgspecError as error:
        raise StateDamaged(f"the record of the suspension in {folder} is damaged: {error}") from error


def why_not_saved(number: int, refusal: str) -> ExecutorError:
    """The error for a shim's refusal to save its job, by the errno that it gives."""
    if number in (errno.ESRCH, errno.ECANCELED):
        return ExecutionNotRunning(f"it cannot be saved: {refusal}")
    if number in (errno.EBUSY, errno.EOPNOTSUPP):
        return NotSupported(f"it cannot be saved now: {refusal}", what="snapshot", mend=_MEND_BUSY)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourcesUnavailable(f"it could not be saved: {refusal}", mend="Make room in the state folder")
    return SnapshotFailed(f"it could not be saved: {refusal}", errno=number)


class Suspensions:
    """What one event loop asks of those that are saved."""

    def __init__(self) -> None:
        self._watcher = Watcher()

    def close(self) -> None:
        """Ends all watches."""
        self._watcher.close()

    @asynccontextmanager
    async def alone(self, folder: Path) -> AsyncIterator[Suspended | None]:
        """Nobody else brings it back or ends it in the block; the record, if it is saved now. Raises `StateDamaged`,
        `EngineUnreachable`: somebody brings it back for too long.
        """
        lock = await _locked(folder)
        if lock is None:
            yield None
            return
        try:
            yield await asyncio.to_thread(read_suspended, folder)
        finally:
            os.close(lock)

    async def over(self, folder: Path, timeout: float | None) -> None:
        """Returns once it goes on, or has an exit record: at the latest when its timeout has come."""
        while (saved := await asyncio.to_thread(read_suspended, folder)) is not None:
            left = saved.left(timeout)
            if left is not None and left <= 0:
                async with self.alone(folder) as still:
                    if still is not None:
                        await asyncio.to_thread(end_suspended, folder, still, "deadline", timeout or 0.0)
                return
            try:
                subscription = self._watcher.watch(folder / RECORD, APPEARED)
            except FileNotFoundError:
                return
            try:
                async with asyncio.timeout(min(_LONGEST, left if left is not None else _LONGEST)):
                    await subscription.wait()
            except TimeoutError:
                pass
            finally:
                subscription.close()


def end_suspended(folder: Path, saved: Suspended, cause: Literal["deadline", "stop"], timeout: float = 0.0) -> None:
    """Ends one that nothing runs of: the exit record first, then what it would have gone on from. Blocks.

    Of the deadline it is as though it had been ended when that came.
    """
    end = saved.started_at + int(timeout * 1e9) if cause == "deadline" else time.time_ns()
    record: dict[str, Any] = {
        "version": 1,
        "code": 137,
        "signal": 9,
        "oom_kills": 0,
        "stopped_by": cause,
        "killed": True,
        "lost": _LOST,
        "started_at": saved.started_at,
        "finished_at": end,
        "error": "",
        "usage": {},
    }
    scratch = folder / "exit.tmp"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    scratch.rename(folder / "exit")
    (folder / RECORD).unlink(missing_ok=True)


async def _locked(folder: Path) -> int | None:
    """Waits for who holds it: a restore takes no longer than a start may. None: it was never saved, or is removed."""
    fd = await asyncio.to_thread(_opened, folder)
    if fd is None:
        return None
    try:
        async with asyncio.timeout(_HELD):
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                await asyncio.sleep(_LOOK)  # nobody tells; and a thread that waits could not be taken back
    except TimeoutError as error:
        os.close(fd)
        raise EngineUnreachable("whoever brings it back does not end", mend="Look at that process") from error
    except BaseException:
        os.close(fd)
        raise


def _opened(folder: Path) -> int | None:
    if not (is_suspended(folder) or (folder / LOCK).exists()):
        return None
    try:
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
