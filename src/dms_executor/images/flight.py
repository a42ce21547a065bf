"""One preparation that serves many askers: the last one's departure stops it, and a failure is remembered by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Flights"]


class Flights:
    """Work in progress by key, in one process."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._askers: dict[str, int] = {}

    async def join(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Waits for `work`, started by the first asker. Raises what it raises."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._tasks[key] = task
            self._askers[key] = 0
        self._askers[key] += 1
        try:
            await asyncio.shield(task)
        finally:
            await self._leave(key, task)

    async def _leave(self, key: str, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is not task:
            return
        self._askers[key] -= 1
        if task.done() or self._askers[key] == 0:
            del self._tasks[key], self._askers[key]
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # seen: the asker that left has its own reason
