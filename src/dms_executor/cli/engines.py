"""`engines`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Command, session_of
from .terminal import emit, emit_json, table

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["engines_command"]

_WIDTH = 80


@click.command(
    "engines",
    cls=Command,
    examples="""
    dms-executor engines
    dms-executor --json engines | jq -r 'select(.usable).engine'
    """,
)
@click.pass_context
def engines_command(context: click.Context) -> int:
    """Show which engines are usable here, with which runtime, and how to mend the others."""
    session = session_of(context)

    async def show(executor: Executor) -> None:
        probes = await executor.probe()
        if session.json:
            for probe in probes:
                emit_json(probe)
            return
        table(
            ["ENGINE", "USABLE", "VERSION"],
            [[probe.engine, "yes" if probe.usable else "no", probe.version or "-"] for probe in probes],
        )
        for probe in probes:
            if probe.capabilities:
                emit(f"\n{probe.engine} can")
                emit(_lines(sorted(probe.capabilities)))
            if probe.mend:
                emit(f"\n{probe.engine}{': ' + probe.problem if probe.problem else ' could do more'}")
                emit(f"  {probe.mend}")

    return session.run(show)


def _lines(words: list[str]) -> str:
    return click.wrap_text(" ".join(words), _WIDTH, "  ", "  ")
