"""Retention: what is kept for how long, and what `cleanup` takes away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from . import recovery
from .errors import EngineUnavailable, EngineUnreachable, ExecutionAlreadyFinished, ExecutionNotFound
from .journal import Row
from .lifecycle import Core, cancel
from .logs.retention import drop_log
from .stored_images import prune
from .types import CleanupReport

__all__ = ["cleanup"]

_PAGE = 500  # rows read at once

_log = logging.getLogger(__name__)


async def cleanup(core: Core, *, running: bool) -> CleanupReport:
    """Drops logs and records whose time is over and destroys leftovers; with `running` cancels what runs first."""
    if running:
        await _cancel_all(core)
    report = await recovery.recover(core, thorough=True)
    freed = executions = 0
    async for row in _finished(core):
        assert row.finished_at is not None
        age = time.time() - row.finished_at / 1e9
        if age >= max(core.settings.record_retention, row.request.persist_logs or 0):
            freed += await _drop(core, row)
            if await core.journal.removing(row.token, None):
                await recovery.discard(core, row)
                executions += 1
        elif _log_over(core, row, age) and not row.expired:
            await core.journal.expired(row.token)
            freed += await _drop(core, row)
    await core.journal.forget_events(core.settings.record_retention)
    pruned = await prune(core, age=core.settings.image_retention, size=int(core.settings.image_cache))
    return CleanupReport(
        executions=executions,
        images=pruned.images,
        leftovers=len(report.leftovers),
        bytes_freed=freed + pruned.bytes_freed,
    )


async def _finished(core: Core) -> AsyncIterator[Row]:
    """Page by page, the oldest first: history is not held in memory whole."""
    place: int | None = None
    while page := await core.journal.rows(after=place, limit=_PAGE):
        place = page[-1].seq
        for row in page:
            if row.terminal and row.finished_at is not None:
                yield row


def _log_over(core: Core, row: Row, age: float) -> bool:
    kept = row.request.persist_logs
    if kept == 0:
        return row.delivered_at is not None
    return age >= (core.settings.retention if kept is None else kept)


async def _drop(core: Core, row: Row) -> int:
    return await core.in_thread(drop_log, core.journal.folder(row.token))


async def _cancel_all(core: Core) -> None:
    """All at once: one after the other, a thousand graces would take hours."""
    rows = [row for row in await core.journal.open_rows() if not row.terminal]
    await asyncio.gather(*[_cancel_one(core, row) for row in rows])


async def _cancel_one(core: Core, row: Row) -> None:
    try:
        await cancel(core, row.id, None, None)
    except (ExecutionAlreadyFinished, ExecutionNotFound):
        return  # it ended, or somebody else removed it meanwhile
    except (EngineUnavailable, EngineUnreachable) as error:
        _log.warning("%s", error, extra={"execution_id": row.id, "engine": row.engine})
