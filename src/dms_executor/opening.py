"""Opening and closing an executor: the state folder's checks, its owner's lock, and the order of going."""

from __future__ import annotations

import asyncio
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
from .types import ExecutionStatus, Settings

__all__ = ["CLOSE_WITHIN", "close", "enter"]

CLOSE_WITHIN = 10.0
"""Seconds that a close takes at most."""

_in_use: set[tuple[int, int]] = set()
_guard = threading.Lock()


async def enter(folder: Path, policy: Policy, settings: Settings, stack: AsyncExitStack) -> Core:
    """A core on a checked folder whose owner's lock this process holds. Raises `StateError` and its kinds."""
    folder = await asyncio.to_thread(folder.absolute)
    executor_id, owners, key = await asyncio.to_thread(_take, folder)
    stack.callback(_in_use.discard, key)
    stack.push_async_callback(asyncio.to_thread, owners.leave)
    return Core(folder, executor_id, owners, policy=policy, settings=settings, stack=stack)


def _take(folder: Path) -> tuple[str, Owners, tuple[int, int]]:
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
    await core.tasks.aclose(CLOSE_WITHIN / 2)
    await core.changes.aclose()
    await core.journal.release(running)
    await core.journal.close()
    await asyncio.wait({asyncio.create_task(asyncio.to_thread(core.files.shutdown))}, timeout=1.0)
