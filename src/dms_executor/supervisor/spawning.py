"""Spawning the package's own programs without blocking the event loop, and reaping them without a watcher."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import EngineUnavailable, ExecutorError, ResourcesUnavailable, StartFailed
from . import binary

__all__ = ["forget", "mapped", "on_exit", "reap", "spawn", "spawned_shim"]

_FOUND: list[str] = []
_AWAITED: dict[int, tuple[asyncio.AbstractEventLoop, int]] = {}
"""Children whose end somebody's loop waits for, with the pidfd; a loop may be closed before it comes."""
_FORGOTTEN: set[int] = set()
"""Children that end soon, where no descriptor was left to be told by: reaped by the next spawn."""
_LOWEST_SOURCE = 100


def mapped(error: OSError, what: str) -> ExecutorError:
    """The package's error for an operating system's."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourcesUnavailable(
            f"{what}: too many open files", mend="Raise the limit on open files (`ulimit -n`), each execution takes two"
        )
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return ResourcesUnavailable(f"{what}: {error.strerror}", mend="Raise `ulimit -u` or free memory")
    if error.errno in (errno.EACCES, errno.ENOEXEC):
        return EngineUnavailable(f"{what}: {error.strerror}", mend="dms-shim must be executable for this user")
    return StartFailed(f"{what}: {error.strerror}")


async def spawned_shim() -> str:
    """The path of `dms-shim`, looked up in a thread the first time."""
    if not _FOUND:
        _FOUND.append(await asyncio.to_thread(binary.shim_path))
    return _FOUND[0]


def spawn(
    path: str, argv: Sequence[str], environment: dict[str, str], descriptors: dict[int, int], folder: Path | None = None
) -> int:
    """Its pid. `descriptors`: number there -> number here; `folder` becomes descriptor 1 there.

    What is not named is `/dev/null` (0 to 2) or closed. Raises the package's errors.
    """
    actions: list[tuple[int, int, str | bytes, int, int] | tuple[int, int, int]] = []
    for number in range(3):
        if number == 1 and folder is not None:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
            actions.append((os.POSIX_SPAWN_OPEN, 1, os.fsencode(folder), flags, 0))
        elif number not in descriptors:
            actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0))
    _reap_of_closed_loops()
    copies: list[int] = []
    try:
        for there, here in descriptors.items():
            # Above all places, so that none is overwritten before it is duplicated.
            copies.append(fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, _LOWEST_SOURCE))
            actions.append((os.POSIX_SPAWN_DUP2, copies[-1], there))
        return os.posix_spawn(path, list(argv), environment, file_actions=actions)
    except OSError as error:
        raise mapped(error, f"cannot start {argv[0]}") from error
    finally:
        for fd in copies:
            os.close(fd)


def reap(pid: int) -> int | None:
    """The wait status of a child that ended, None while it runs; 0 if somebody else took it."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if done else None


def forget(pid: int) -> None:
    """Sees to it that a child whose end is of no interest does not stay a zombie. Never fails."""
    try:
        on_exit(pid, lambda status: None)
    except OSError:
        _FORGOTTEN.add(pid)


def on_exit(pid: int, done: Callable[[int], None]) -> None:
    """Calls `done(wait status)` in the running loop once the child ended. No thread, no polling."""
    loop = asyncio.get_running_loop()
    status = reap(pid)
    if status is not None:
        loop.call_soon(done, status)
        return
    fd = os.pidfd_open(pid)
    _AWAITED[pid] = loop, fd

    def ended() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        del _AWAITED[pid]
        done(reap(pid) or 0)

    loop.add_reader(fd, ended)


def _reap_of_closed_loops() -> None:
    for pid in list(_FORGOTTEN):
        if reap(pid) is not None:
            _FORGOTTEN.discard(pid)
    for pid, (loop, fd) in list(_AWAITED.items()):
        if loop.is_closed() and reap(pid) is not None:
            os.close(fd)
            del _AWAITED[pid]
