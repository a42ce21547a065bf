"""`events`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from .durations import since
from .pipe import while_somebody_reads
from .session import Command, completed, session_of
from .terminal import STDOUT, emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import Event

__all__ = ["events_command"]

_STATUSES = ("pending", "running", "paused", "success", "failed", "cancelled")


@click.command(
    "events",
    cls=Command,
    examples="""
    dms-executor events
    dms-executor events -f --status failed --label team=search
    dms-executor --json events -f --after 0
    """,
)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C; from now on, unless --after or --since.")
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="Past event N; 0: all that are kept.")
@click.option("--since", "begin", metavar="TIME", help="Only from then on: 90, 10m, 2h, or 2026-01-31T12:00:00Z.")
@click.option(
    "--id", "ids", multiple=True, metavar="ID", shell_complete=completed("ids"), help="Only of this execution."
)
@click.option("--job-id", "job_ids", multiple=True, metavar="ID", help="Only of this job.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_STATUSES), help="Only into this status.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only of executions with this label.")
@click.pass_context
def events_command(
    context: click.Context,
    follow: bool,
    after: int | None,
    begin: str | None,
    ids: tuple[str, ...],
    job_ids: tuple[str, ...],
    statuses: tuple[str, ...],
    labels: tuple[str, ...],
) -> int:
    """Show the transitions of executions, whichever process made them, also while none of ours lived.

    Of each option that is given more than once any counts, but each --label must be there.
    """
    session = session_of(context)
    chosen = _Filter(ids, job_ids, statuses, labels, _moment(begin))
    # Without -f it is what there was.
    first = after if after is not None else (None if follow and begin is None else 0)

    async def show(executor: Executor) -> None:
        async def all_of_them() -> None:
            async for event in executor.events(after=first, follow=follow):
                if await chosen.holds(executor, event):
                    _emit(event, as_json=session.json)

        await while_somebody_reads(STDOUT, all_of_them())

    return session.run(show)


class _Filter:
    """Which events are wanted. Labels are looked up; an execution that was removed has none."""

    def __init__(
        self,
        ids: tuple[str, ...],
        job_ids: tuple[str, ...],
        statuses: tuple[str, ...],
        labels: tuple[str, ...],
        begin: datetime | None,
    ) -> None:
        self._ids, self._job_ids, self._statuses, self._begin = ids, job_ids, statuses, begin
        self._labels = dict(label.partition("=")[::2] for label in labels)

    async def holds(self, executor: Executor, event: Event) -> bool:
        if self._begin is not None and event.time < self._begin:
            return False
        for wanted, value in (
            (self._ids, event.execution_id),
            (self._job_ids, event.job_id),
            (self._statuses, event.status),
        ):
            if wanted and value not in wanted:
                return False
        return not self._labels or await self._labelled(executor, event.execution_id)

    async def _labelled(self, executor: Executor, execution_id: str) -> bool:
        from ..errors import ExecutionNotFound

        try:
            labels = (await executor.inspect(execution_id)).request.labels
        except ExecutionNotFound:
            return False
        return self._labels.items() <= labels.items()


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = since(text)
    return datetime.fromisoformat(found) if isinstance(found, str) else datetime.now(UTC) - timedelta(seconds=found)


def _emit(event: Event, *, as_json: bool) -> None:
    if as_json:
        emit_json(event)
    else:
        emit(_line(event))


def _line(event: Event) -> str:
    why = f" {event.reason}" if event.reason else ""
    message = f": {event.message}" if event.message else ""
    return f"{event.sequence}  {event.time:%Y-%m-%dT%H:%M:%S.%fZ}  {event.execution_id}  {event.status}{why}{message}"
