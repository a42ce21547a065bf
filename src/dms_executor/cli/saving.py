"""`snapshot` and `restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Command, completed, session_of
from .terminal import emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["restore_command", "snapshot_command"]


@click.command("snapshot", cls=Command, examples="dms-executor snapshot brisk-heron-3f9a1c friday")
@click.argument("execution_id", metavar="ID", shell_complete=completed("ids_alive"))
@click.argument("name", metavar="NAME")
@click.pass_context
def snapshot_command(context: click.Context, execution_id: str, name: str) -> int:
    """Save a running job to disk under a name.

    Nothing of it runs then, and its memory is free; its timeout goes on. It is refused while commands, copies or
    attachments are open in it.
    """
    session = session_of(context)

    async def save(executor: Executor) -> int:
        await executor.snapshot(execution_id, name)
        if session.json:
            emit_json({"execution_id": execution_id, "saved_as": name})
        else:
            emit(name)
        return 0

    return session.run(save)


@click.command(
    "restore",
    cls=Command,
    examples="""
    dms-executor restore friday
    dms-executor wait $(dms-executor restore friday)
    """,
)
@click.argument("name", metavar="NAME")
@click.pass_context
def restore_command(context: click.Context, name: str) -> int:
    """Let a saved job go on where it was. Prints its id."""
    session = session_of(context)

    async def restore(executor: Executor) -> int:
        from ..errors import ExecutionNotFound

        found = [info for info in await executor.list(statuses=["paused"]) if info.saved_as == name]
        if not found:
            raise ExecutionNotFound(f"nothing is saved as {name}", mend="`dms-executor inspect ID` says `saved_as`")
        execution_id = found[0].request.execution_id
        await executor.restore(name, execution_id)
        if session.json:
            emit_json({"execution_id": execution_id})
        else:
            emit(execution_id)
        return 0

    return session.run(restore)
