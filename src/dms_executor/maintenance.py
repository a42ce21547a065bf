"""Retention: what is kept for how long, and what `cleanup` takes away."""

from __future__ import annotations

import time

from . import recovery
from .errors import ExecutionAlreadyFinished
from .journal import Row
from .lifecycle import Core, cancel
from .logs.retention import drop_log
from .types import CleanupReport

__all__ = ["cleanup"]


async def cleanup(core: Core, *, running: bool) -> CleanupReport:
    """Drops logs and records whose time is over and destroys leftovers; with `running` cancels what runs first."""
    if running:
        await _cancel_all(core)
    report = await recovery.recover(core, thorough=True)
    freed = executions = 0
    for row in await core.journal.rows(statuses=None, job_id=None, after=None, limit=None):
        if row.finished_at is None or not row.terminal:
            continue
        age = time.time() - row.finished_at / 1e9
        if age >= core.settings.record_retention:
            freed += await _drop(core, row)
            if await core.journal.removing(row.token, None):
                await recovery.discard(core, row)
                executions += 1
        elif _log_over(core, row, age) and not row.expired:
            await core.journal.expired(row.token)
            freed += await _drop(core, row)
    await core.journal.forget_removed()
    return CleanupReport(executions=executions, leftovers=len(report.leftovers), bytes_freed=freed)


def _log_over(core: Core, row: Row, age: float) -> bool:
    kept = row.request.persist_logs
    if kept == 0:
        return row.delivered_at is not None
    return age >= (core.settings.retention if kept is None else kept)


async def _drop(core: Core, row: Row) -> int:
    return await core.in_thread(drop_log, core.journal.folder(row.token))


async def _cancel_all(core: Core) -> None:
    for row in await core.journal.open_rows():
        try:
            await cancel(core, row.id, None, None)
        except ExecutionAlreadyFinished:
            continue
