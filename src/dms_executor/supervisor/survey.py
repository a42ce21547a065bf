"""What exists of this state folder's executions: its folders, asked in parallel within one budget of time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from ..engine import Exit, Observed
from ..errors import EngineUnreachable
from . import shim as shims
from .record import read_exit
from .suspended import is_suspended

__all__ = ["survey"]

_BUDGET = 3.5  # seconds, however many shims hang
_AT_ONCE = 32


async def survey(
    executions: Path, mark: str, is_frozen: Callable[[str], bool | None], among: Collection[str] | None = None
) -> dict[str, Observed]:
    """By token, of all or of those `among`, whose folders alone are looked into then. `mark`: the folder that an
    execution of the asking engine has in its own.

    Raises `EngineUnreachable` where one does not answer in time: it is unknown, not absent.
    """
    tokens = await asyncio.to_thread(_marked, executions, mark, among)
    found: dict[str, Observed] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def look_at(token: str) -> None:
        async with gate:
            seen = await _observed(executions / token, token, is_frozen)
        if seen is not None:
            found[token] = seen

    late = await _within([look_at(token) for token in tokens], _BUDGET)
    if late:
        raise EngineUnreachable(f"{late} of {len(tokens)} shims did not answer within {_BUDGET:g} s")
    return found


async def _observed(folder: Path, token: str, is_frozen: Callable[[str], bool | None]) -> Observed | None:
    """One execution; None where there is neither a shim nor a record."""
    record = await asyncio.to_thread(read_exit, folder)
    if record is not None:
        return Observed(phase="ended", exit=record)
    saved = await asyncio.to_thread(is_suspended, folder)
    shim = await shims.connect(folder)
    if shim is None and saved:
        return Observed(phase="suspended")  # as it was before: it may go on by now
    if shim is None:
        # It may have ended between the two looks.
        return await asyncio.to_thread(_without_shim, folder)
    phase = shim.phase
    shim.close()
    if saved and phase != "running":
        return Observed(phase="suspended")  # somebody brings it back, or could not
    if phase == "suspending":
        return Observed(phase="suspending")
    if phase == "created":
        return Observed(phase="created")
    frozen = await asyncio.to_thread(is_frozen, token) if phase == "running" else False
    return Observed(phase="paused" if frozen else "running")


def _without_shim(folder: Path) -> Observed | None:
    """A record that was written between two looks; else, where the go had arrived, an end that nobody saw."""
    record = read_exit(folder)
    if record is None and is_suspended(folder):
        return Observed(phase="suspended")
    if record is None and (folder / "going").exists():
        record = Exit(lost="the shim was killed", finished_at=datetime.now(UTC))
    return Observed(phase="ended", exit=record) if record is not None else None


def _marked(executions: Path, mark: str, among: Collection[str] | None = None) -> list[str]:
    """The tokens whose folder has something of this engine, of all or of those `among`. Blocks."""
    try:
        # Every finished execution has a folder, too: plain calls, a third of the time of paths as objects.
        tokens = os.listdir(executions) if among is None else among
        return [token for token in tokens if os.path.isdir(f"{executions}/{token}/{mark}")]  # noqa: PTH112
    except FileNotFoundError:
        return []


async def _within(work: list[Awaitable[None]], seconds: float) -> int:
    """How many were not done in time."""
    tasks = [asyncio.ensure_future(each) for each in work]
    if not tasks:
        return 0
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
    return len(tasks) - len(done)
