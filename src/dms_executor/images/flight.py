"""One preparation that serves many askers: the last one's departure stops it, and a failure is remembered by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..engine import Report
from ..types import Progress

__all__ = ["Flights"]

T = TypeVar("T")


class _Flight:
    """Work in progress, with those who wait for it and what was last said of it."""

    def __init__(self, work: Callable[[Report], Awaitable[Any]]) -> None:
        self.askers: list[Report] = []
        self.last: Progress | None = None
        self.task: asyncio.Future[Any] = asyncio.ensure_future(work(self._tell))

    def _tell(self, progress: Progress) -> None:
        self.last = progress
        for report in list(self.askers):
            report(progress)


class Flights:
    """Work in progress by key, in one process."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def join(self, key: str, work: Callable[[Report], Awaitable[T]], report: Report) -> T:
        """What `work` gives, started by the first asker; each hears of its progress. Raises what it raises."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(work)
        flight.askers.append(report)
        try:
            if flight.last is not None:
                report(flight.last)
            given: T = await asyncio.shield(flight.task)
            return given
        finally:
            flight.askers.remove(report)
            await self._left(key, flight)

    async def _left(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is not flight:
            return
        if flight.task.done() or not flight.askers:
            del self._flights[key]
            flight.task.cancel()
            await asyncio.wait([flight.task])
            if not flight.task.cancelled():
                flight.task.exception()  # seen: the asker that left has its own reason
