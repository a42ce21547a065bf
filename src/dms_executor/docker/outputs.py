"""What jobs write, brought home: by the stream that was attached to, by the daemon's log, or out of the driver's file.

A daemon that is killed loses what it had read and given nobody, and what a job wrote that ended before it was back;
none of its streams tells. So the job's init counts what it passes on and reports it at the end: what has not come by
then is missing, and is said to be. The count also saves the wait for the daemon, which ends a stream some 40 ms after
its job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..engine import Chunk, Execution, Handle
from ..errors import EngineUnreachable
from .files import folder_of
from .logfile import read_log
from .output import Attached, Position, logged, missing_end
from .report import Report, read_report

if TYPE_CHECKING:
    from ..logs.inotify import Watcher
    from .client import Client
    from .dialect import Dialect
    from .events import Events
    from .follow import Follower
    from .state import Inspected

__all__ = ["Outputs"]

_AWAY = 0.5
_LOOK, _LOOKS = 0.05, 200  # for a daemon to note the end of a container whose init has reported it


class Outputs:
    """The part of the engine that has a job's output."""

    dialect: ClassVar[Dialect]
    _client: Client
    _events: Events
    _watcher: Watcher
    _attached: dict[str, Attached]
    _reading: dict[str, Attached]

    async def output(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        """The stream that was attached to; for who comes later the daemon's log. Or the driver's own file."""
        if self.dialect.output == "file":
            chunks = self._of_file(x, h, after)
        elif after is None and x.token in self._attached:
            chunks = self._of_stream(x, h, self._attached.pop(x.token))
        else:
            chunks = self._of_log(x, h, after)
        async for chunk in chunks:
            yield chunk

    def _expect(self, x: Execution, follower: Follower) -> None:
        """The job is over. Ports are free only once the daemon has seen that, too."""
        attached = self._attached.get(x.token) or self._reading.get(x.token)
        if attached is not None and follower.wrote is not None and not x.request.ports:
            attached.expect(follower.wrote)

    def _follower(self, x: Execution, h: Handle) -> Follower:
        raise NotImplementedError

    async def _looked_at(self, h: Handle) -> Inspected | None:
        raise NotImplementedError

    async def _of_stream(self, x: Execution, h: Handle, attached: Attached) -> AsyncIterator[Chunk]:
        self._reading[x.token] = attached
        try:
            async for chunk in attached.chunks():
                yield chunk
        finally:
            del self._reading[x.token]
            await attached.close()
        if not attached.is_whole:
            await self._sure_of_the_end(x, h, attached)

    async def _sure_of_the_end(self, x: Execution, h: Handle, attached: Attached) -> None:
        """An attached stream ends alike with its job and with its daemon."""
        report = await self._report(x)
        if report.wrote is not None and not attached.position.missing(report.wrote):
            return
        await self._client.ping()
        with self._follower(x, h) as follower:
            broke = report.wrote is not None or attached.breaks != self._events.breaks
            if broke or not await follower.has_ended():
                raise EngineUnreachable("the stream of its output broke", execution_id=x.id)

    async def _of_log(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        cursor, found = after, None
        for follow in (True, False):  # at a container's end a follower may be let go before it has all
            async for chunk in logged(self._client, str(h.state["container"]), cursor, follow=follow):
                cursor = chunk.cursor
                yield chunk
            report = await self._report(x)
            if report.wrote is not None and not Position(cursor).missing(report.wrote):
                return
            if follow:
                found = await self._over(x, h, report)
        missing = self._missing(report, found, cursor)
        if missing is not None:
            yield missing

    async def _over(self, x: Execution, h: Handle, report: Report) -> Inspected | None:
        """The container, once nothing of it runs: its log is whole then.

        Raises `EngineUnreachable` where its log ended before its job.
        """
        for _ in range(_LOOKS):
            found = await self._looked_at(h)
            if found is None or not found.state.running:
                break
            if not report.is_over:
                raise EngineUnreachable("the stream of its output broke", execution_id=x.id)
            await asyncio.sleep(_LOOK)
        return found

    def _missing(self, report: Report, found: Inspected | None, cursor: bytes | None) -> Chunk | None:
        """A gap: of what was counted the rest; where nothing was, one where perhaps no daemon has read to the end."""
        ended = report.finished_at or (found.finished_at if found is not None else None)
        if report.wrote is not None:
            return missing_end(cursor, ended or datetime.now(UTC), Position(cursor).missing(report.wrote))
        if report.started_at is not None and found is not None and not found.has_started:
            # A daemon that was killed over the start call knows nothing of the job that runs.
            return missing_end(cursor, report.started_at)
        if not self._events.was_away(ended.timestamp() if ended is not None else None):
            return None
        return missing_end(cursor, ended or datetime.now(UTC))

    async def _of_file(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        found = await self._looked_at(h)
        if found is None:
            return
        over = asyncio.Event()
        with self._follower(x, h) as follower:
            end = asyncio.create_task(_gone(follower), name=f"end of {x.id}")
            end.add_done_callback(lambda _: over.set())
            try:
                async for chunk in read_log(Path(found.log_path), after, self._watcher, over):
                    yield chunk
                await end
            finally:
                end.cancel()
                await asyncio.wait([end])

    async def _report(self, x: Execution) -> Report:
        return await asyncio.to_thread(read_report, folder_of(x) / "report")


async def _gone(follower: Follower) -> None:
    """However long the daemon is away: what its file holds meanwhile is read without it."""
    while True:
        try:
            return await follower.gone()
        except EngineUnreachable:
            await asyncio.sleep(_AWAY)
