"""Executions as callers see them: what `inspect` and `list` say of one, pages of them, statuses by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .errors import InvalidRequest
from .journal import Row
from .journal.clock import instant, moment
from .lifecycle import Core
from .types import ExecutionInfo, ExecutionStatus

__all__ = ["described", "listed", "named_statuses"]

# Rows read at once.
_PAGE = 500


def described(core: Core, row: Row) -> ExecutionInfo:
    """`stale` where this process watches it and its engine does not answer."""
    live = core.live.get(row.token)
    return ExecutionInfo(
        request=row.request,
        status=row.status,
        engine=row.engine,
        created_at=instant(row.created_at),
        reason=row.reason,
        started_at=moment(row.started_at),
        finished_at=moment(row.finished_at),
        exit_code=row.exit_code,
        ports=row.handle.ports if row.handle else [],
        engine_ids=row.handle.engine_ids if row.handle else {},
        saved_as=row.handle.saved if row.handle and row.status is ExecutionStatus.PAUSED else None,
        loosened=(row.prepared.loosened if row.prepared else []) + (row.handle.loosened if row.handle else []),
        unenforced=row.prepared.unenforced if row.prepared else [],
        stale=live.stale if live else False,
        waits_for=row.message if row.status is ExecutionStatus.PENDING else "",
    )


async def listed(
    core: Core,
    *,
    statuses: Iterable[ExecutionStatus | str] | None,
    job_id: str | None,
    labels: Mapping[str, str],
    limit: int | None,
    after: str | None,
    newest_first: bool,
) -> list[ExecutionInfo]:
    """Executions in order of creation or against it, from `after` on. Raises `ExecutionNotFound`, `InvalidRequest`."""
    chosen = None if statuses is None else [status.value for status in named_statuses(statuses)]
    if limit is not None and limit < 0:
        raise InvalidRequest(f"{limit} is no number of executions", path="$.limit", mend="Use 0 or more")
    place = None if after is None else (await core.row(after)).seq
    found: list[ExecutionInfo] = []
    while limit is None or len(found) < limit:
        # Who asks for ten gets ten rows read; labels are not known to the database, so with them it may take more.
        size = _PAGE if limit is None or labels else min(_PAGE, limit - len(found))
        page = await core.journal.rows(
            statuses=chosen, job_id=job_id, after=place, limit=size, newest_first=newest_first
        )
        matching = [row for row in page if labels.items() <= row.request.labels.items()]
        found += [described(core, row) for row in matching]
        if len(page) < size:
            break
        place = page[-1].seq
    return found if limit is None else found[:limit]


def named_statuses(named: Iterable[ExecutionStatus | str]) -> set[ExecutionStatus]:
    """Raises `InvalidRequest`, which lists the names."""
    try:
        return {ExecutionStatus(status) for status in named}
    except ValueError as error:
        known = ", ".join(ExecutionStatus)
        raise InvalidRequest(str(error), path="$.statuses", mend=f"Statuses are: {known}") from error
