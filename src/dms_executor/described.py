"""Executions as callers see them: what `inspect` and `list` say of one, and statuses by their names."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import InvalidRequest
from .journal import Row
from .journal.clock import instant, moment
from .lifecycle import Core
from .types import ExecutionInfo, ExecutionStatus

__all__ = ["described", "named_statuses"]


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
        loosened=(row.prepared.loosened if row.prepared else []) + (row.handle.loosened if row.handle else []),
        unenforced=row.prepared.unenforced if row.prepared else [],
        stale=live.stale if live else False,
    )


def named_statuses(named: Iterable[ExecutionStatus | str]) -> set[ExecutionStatus]:
    """Raises `InvalidRequest`, which lists the names."""
    try:
        return {ExecutionStatus(status) for status in named}
    except ValueError as error:
        known = ", ".join(ExecutionStatus)
        raise InvalidRequest(str(error), path="$.statuses", mend=f"Statuses are: {known}") from error
