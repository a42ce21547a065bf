"""`cleanup`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Command, session_of
from .terminal import emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["cleanup_command"]


@click.command("cleanup", cls=Command, examples="dms-executor cleanup\ndms-executor cleanup --running")
@click.option("--running", is_flag=True, help="Cancel what runs, first.")
@click.pass_context
def cleanup_command(context: click.Context, running: bool) -> int:
    """Drop logs, records and images whose time is over, and what dead processes left behind."""
    session = session_of(context)

    async def whole(executor: Executor) -> int:
        report = await executor.cleanup(running=running)
        if session.json:
            emit_json(report)
        else:
            removed = f"{report.executions} records, {report.images} images and {report.leftovers} leftovers removed"
            emit(f"{removed}, {report.bytes_freed} bytes freed")
        return 0

    return session.run(whole)
