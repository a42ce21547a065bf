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
    """Drop logs and records whose time is over, and what dead processes left behind."""
    session = session_of(context)

    async def whole(executor: Executor) -> int:
        report = await executor.cleanup(running=running)
        if session.json:
            emit_json(report)
        else:
            freed = f"{report.bytes_freed} bytes of logs freed"
            emit(f"{report.executions} records and {report.leftovers} leftovers removed, {freed}")
        return 0

    return session.run(whole)
