"""Opening and closing an executor: the state folder's checks, its owner's lock, and the order of going."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

from .errors import StateError
from .journal import Intent, Owners
from .journal.files import os_error
from .journal.folder import OWNERS, prepare_folder
from .lifecycle import Core
from .policy import Policy
from .threads import finished
from .types import ExecutionStatus, Settings

__all__ = ["CLOSE_WITHIN", "close", "enter"]

CLOSE_WITHIN = 10.0
"""Seconds that a close takes at most."""

_log = logging.getLogger(__name__)
_in_use: set[tuple[int, int]] = set()
_guard = threading.Lock()


async def enter(folder: Path, policy: Policy, settings: Settings, stack: AsyncExitStack) -> Core:
    """A core on a checked folder whose owner's lock this process holds. Raises `StateError` and its kinds."""
    folder = await asyncio.to_thread(folder.absolute)
    taken = await finished(_give_back, _take, folder)
    stack.push_async_callback(asyncio.to_thread, _give_back, taken)
    executor_id, owners, _ = taken
    return Core(folder, executor_id, owners, policy=policy, settings=settings)


_Taken = tuple[str, Owners, tuple[int, int]]


def _give_back(taken: _Taken) -> None:
    _, owners, key = taken
    try:
        owners.leave()
    finally:
        _in_use.discard(key)


def _take(folder: Path) -> _Taken:
    executor_id = prepare_folder(folder)
    found = folder.stat()
    key = (found.st_dev, found.st_ino)
    with _guard:
        # A record lock belongs to the process: a second executor in it could not be told from the first.
        if key in _in_use:
            raise StateError(f"{folder} is open in this process already", mend="Share that Executor")
        _in_use.add(key)
    try:
        owners = Owners(folder / OWNERS)
        owners.enter()
    except BaseException as error:
        _in_use.discard(key)
        if isinstance(error, OSError):
            raise os_error(error, folder) from error
        raise
    return executor_id, owners, key


async def close(core: Core) -> None:
    """Pending starts are cancelled, waiters and streams end, running jobs go on. Within `CLOSE_WITHIN`."""
    if core.closing.is_set():
        return
    core.closing.set()
    await _end_sessions(core)
    pending = [live for live in core.live.values() if live.status is ExecutionStatus.PENDING and not live.ended]
    for live in pending:
        live.abort(Intent(cause="cancelled", signal=live.prepared.stop_signal, grace=0.0, time=time.time_ns()))
    # What is half undone or half finished is brought to its end; what runs is left running.
    ending = [asyncio.ensure_future(live.done.wait()) for live in core.live.values() if live.ended or live in pending]
    if ending:
        await asyncio.wait(ending, timeout=CLOSE_WITHIN / 2)
        for waiting in ending:
            waiting.cancel()
    running = list(core.live)
    async with AsyncExitStack() as ending_all:  # each of them, in the reverse of this order, also where one fails
        ending_all.push_async_callback(_end_files, core)
        ending_all.push_async_callback(core.journal.close)
        ending_all.push_async_callback(_release, core, running)
        ending_all.push_async_callback(core.changes.aclose)
        ending_all.push_async_callback(core.close_engines)
        await core.tasks.aclose(CLOSE_WITHIN / 2)


async def _end_sessions(core: Core) -> None:
    """Commands of this process in jobs end with it, as they would if it were killed."""
    sessions = [asyncio.ensure_future(session.aclose()) for session in list(core.sessions)]
    if sessions:
        await asyncio.wait(sessions, timeout=CLOSE_WITHIN / 2)


async def _release(core: Core, running: list[str]) -> None:
    try:
        await core.journal.release(running)
    except StateError as error:
        # They bear the name of an owner that is gone then, which is as good.
        _log.warning("%s", error)


async def _end_files(core: Core) -> None:
    await asyncio.wait({asyncio.create_task(asyncio.to_thread(core.files.shutdown))}, timeout=1.0)
