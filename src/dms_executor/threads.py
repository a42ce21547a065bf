"""Work in a thread that is finished even when its asker is cancelled: what it opened or made must not be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["finished"]

T = TypeVar("T")
P = ParamSpec("P")


async def finished(undo: Callable[[T], object] | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work` in a thread. Cancelled, it waits for the thread all the same, and hands the result to `undo`.

    For work of milliseconds; a second cancellation returns at once, and `undo` follows when the thread ends.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Shielded: what is awaited here goes on when a second cancellation ends the waiting.
        await asyncio.shield(asyncio.ensure_future(_undone(task, undo)))
        raise


async def _undone(task: asyncio.Task[T], undo: Callable[[T], object] | None) -> None:
    await asyncio.wait([task])
    # An error of the work itself is of no interest any more: who asked was cancelled.
    if task.exception() is None and undo is not None:
        await asyncio.to_thread(undo, task.result())
