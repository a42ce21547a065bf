"""`events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .pipe import while_somebody_reads
from .session import Command, session_of
from .terminal import STDOUT, emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import Event

__all__ = ["events_command"]


@click.command(
    "events",
    cls=Command,
    examples="""
    dms-executor events
    dms-executor --json events --after 0
    """,
)
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="From event N on; 0: all that are kept.")
@click.pass_context
def events_command(context: click.Context, after: int | None) -> int:
    """Follow the transitions of all executions, until Ctrl-C."""
    session = session_of(context)

    async def follow(executor: Executor) -> None:
        await while_somebody_reads(STDOUT, _follow(executor, after, as_json=session.json))

    return session.run(follow)


async def _follow(executor: Executor, after: int | None, *, as_json: bool) -> None:
    async for event in executor.events(after=after):
        if as_json:
            emit_json(event)
        else:
            emit(_line(event))


def _line(event: Event) -> str:
    why = f" {event.reason}" if event.reason else ""
    message = f": {event.message}" if event.message else ""
    return f"{event.sequence}  {event.time:%Y-%m-%dT%H:%M:%S.%fZ}  {event.execution_id}  {event.status}{why}{message}"
