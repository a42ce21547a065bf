"""`logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .durations import since
from .pipe import while_somebody_reads
from .session import Command, completed, session_of
from .terminal import STDOUT

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["logs_command"]


@click.command(
    "logs",
    cls=Command,
    examples="""
    dms-executor logs brisk-heron-3f9a1c
    dms-executor logs -f -n 20 -t brisk-heron-3f9a1c
    dms-executor logs --since 10m --stderr brisk-heron-3f9a1c
    """,
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the execution ends.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", "begin", metavar="TIME", help="Only from then on: 90, 10m, 2h, or 2026-01-31T12:00:00Z.")
@click.option("-t", "--timestamps", is_flag=True, help="The time (UTC) before each line.")
@click.option("--stdout", "stdout_only", is_flag=True, help="Only the job's stdout.")
@click.option("--stderr", "stderr_only", is_flag=True, help="Only the job's stderr.")
@click.argument("execution_id", metavar="ID", shell_complete=completed("ids"))
@click.pass_context
def logs_command(
    context: click.Context,
    follow: bool,
    tail: int | None,
    begin: str | None,
    timestamps: bool,
    stdout_only: bool,
    stderr_only: bool,
    execution_id: str,
) -> int:
    """Show the output of an execution, also after its end.

    Its stdout goes to stdout, its stderr to stderr.
    """
    from ..types import LogStreamRequest, Stream

    session = session_of(context)
    chosen: list[Stream] = []
    if stdout_only or not stderr_only:
        chosen.append("stdout")
    if stderr_only or not stdout_only:
        chosen.append("stderr")
    request = LogStreamRequest(
        execution_id=execution_id,
        follow=follow,
        last=tail,
        since=since(begin) if begin is not None else None,
        streams=tuple(chosen),
    )

    async def show(executor: Executor) -> None:
        from .entries import copy_entries, copy_entries_as_json

        async with await executor.get_log_stream(request) as stream:
            work = copy_entries_as_json(stream) if session.json else copy_entries(stream, timestamps=timestamps)
            await while_somebody_reads(STDOUT, work)

    return session.run(show)
