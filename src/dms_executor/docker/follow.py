"""Follows one container: by the init's report, which inotify announces, and by the daemon's events.

Subscribed first and looked at then, so that nothing falls between. The report comes before the daemon has heard of the
end: a result need not wait for that. The daemon is asked where the report does not say enough.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from ..engine import Execution, Exit
from ..errors import StartFailed
from ..logs.inotify import Subscription, Watcher
from .client import Client
from .events import Ear, Events
from .files import folder_of
from .report import Report, read_report, was_signalled
from .state import Inspected, ended, look_at

__all__ = ["Follower"]

_LOOK, _LOOKS = 0.02, 100
_MEND = "Check command, user and image"


class Follower:
    """To be used in a `with`. `is_fresh`: this process started it and has listened since: nothing was missed."""

    def __init__(
        self, client: Client, events: Events, watcher: Watcher, x: Execution, container: str, *, is_fresh: bool
    ) -> None:
        self._client = client
        self._events = events
        self._watcher = watcher
        self._x = x
        self._container = container
        self._is_fresh = is_fresh
        self._path = folder_of(x) / "report"
        self.wrote: tuple[int, int] | None = None
        """What the job has written in all, once it has ended, where that was counted."""
        self._ear: Ear
        self._written: Subscription | None = None

    def __enter__(self) -> Self:
        self._ear = self._events.listen(self._x.token)
        try:
            self._written = self._watcher.watch(self._path) if self._x.request.init else None
        except FileNotFoundError:
            self._written = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ear.close()
        if self._written is not None:
            self._written.close()

    async def started(self) -> datetime:
        """When the job's command was executed. Raises `StartFailed`, `EngineUnreachable`."""
        while True:
            self._clear()
            report = await self._report()
            if report.started_at is not None:
                return report.started_at
            if report.error:
                raise StartFailed(report.error, errno=report.errno, mend=_MEND, execution_id=self._x.id)
            found = await self._inspected() if self._must_ask or not self._x.request.init else None
            if found is not None and not self._x.request.init and found.has_started:
                return ended_or_now(found)
            if self._ear.died or (found is not None and found.has_ended):
                why = found.state.error if found is not None else ""
                raise StartFailed(why or "the container ended before its job ran", mend=_MEND, execution_id=self._x.id)
            await self._something()

    async def ended(self) -> Exit:
        """How it ended. Raises `EngineUnreachable`."""
        await self._events.ready()
        asked = self._is_fresh
        while True:
            self._clear()
            found = await self._inspected() if self._must_ask or not asked else None
            exit_ = await self._exit(found, is_gone=found is None and (self._must_ask or not asked))
            if exit_ is not None:
                return exit_
            asked = True
            self._ear.broken = False
            await self._events.ready()
            await self._something()

    async def gone(self) -> None:
        """Returns once the container has ended by the daemon's word: its log is whole then.

        Podman's event of it comes a quarter of a second after it knows when it is asked.
        """
        looks = 0
        while True:
            self._ear.broken = False
            await self._events.ready()
            self._clear()
            is_over = (await self._report()).is_over
            found = await self._inspected()
            if found is None or found.has_ended:
                return
            if is_over and looks < _LOOKS:
                looks += 1
                await asyncio.sleep(_LOOK)
            else:
                await self._something()

    async def has_ended(self) -> bool:
        """Whether it has, now."""
        if (await self._report()).is_over:
            return True
        found = await self._inspected()
        return found is None or found.has_ended

    async def _exit(self, found: Inspected | None, *, is_gone: bool) -> Exit | None:
        request = self._x.request
        report, killed = await asyncio.to_thread(self._end)
        if not report.is_over and not is_gone and (found is None or not found.has_ended):
            return None
        if report.is_over or found is None:
            now = datetime.now(UTC)
            if report.is_over:
                self.wrote = report.wrote
                return report.to_exit(killed=killed, now=now)
            return Exit(lost="its container is gone", started_at=report.started_at, finished_at=now, killed=killed)
        scripts = bool(request.provision_scripts)
        return ended(found, report, with_init=request.init, scripts=scripts, killed=killed)

    @property
    def _must_ask(self) -> bool:
        return self._ear.died or self._ear.broken

    def _clear(self) -> None:
        self._ear.changed.clear()
        if self._written is not None:
            self._written.clear()

    async def _something(self) -> None:
        """Returns once the report or the daemon has something new."""
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._ear.changed.wait())]
        if self._written is not None:
            waiting.append(asyncio.ensure_future(self._written.wait()))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def _end(self) -> tuple[Report, bool]:
        """The report, and whether anybody had sent the job a signal by then. Blocks."""
        return read_report(self._path), was_signalled(folder_of(self._x))

    async def _report(self) -> Report:
        return await asyncio.to_thread(read_report, self._path)

    async def _inspected(self) -> Inspected | None:
        """None: there is no such container."""
        return await look_at(self._client, self._container)


def ended_or_now(found: Inspected) -> datetime:
    """When the daemon says that it started."""
    return datetime.fromisoformat(found.state.started_at[:19] + "+00:00")
