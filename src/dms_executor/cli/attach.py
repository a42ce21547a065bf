"""`attach`: a running job's own stdin, terminal and output."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from .codes import of_run
from .keys import DEFAULT, DetachKeys
from .run import guarded
from .session import Command, completed, session_of
from .terminal import say

if TYPE_CHECKING:
    from ..executor import Executor
    from .foreground import Interrupts

__all__ = ["attach_command"]


@click.command(
    "attach",
    cls=Command,
    examples="""
    dms-executor run -dit --id box rootfs:/srv/busybox sh
    dms-executor attach box
    dms-executor attach --no-stdin box
    """,
)
@click.option("--no-stdin", is_flag=True, help="Only show its output.")
@click.option("--detach-keys", default=DEFAULT, show_default=True, metavar="KEYS", help="What leaves a job's terminal.")
@click.argument("execution_id", metavar="ID", shell_complete=completed("ids_alive"))
@click.pass_context
def attach_command(context: click.Context, no_stdin: bool, detach_keys: str, execution_id: str) -> int:
    """Connect our terminal to a running job: what is typed here is its input, what it writes comes here from now on.

    At its end our exit code is the job's. The job goes on when the keys are typed that leave it, or a signal ends us.
    The end of our input is the end of the job's, if that was started with -i and without -t.
    """
    session = session_of(context)
    if session.json:
        raise click.UsageError("--json says nothing of a terminal: `logs -f` has it for a job's output", context)

    async def whole() -> int:
        from .foreground import Interrupts

        with Interrupts() as interrupts:
            async with session.open() as executor:
                keys = DetachKeys(detach_keys)
                return await _attached(executor, interrupts, execution_id, reads=not no_stdin, keys=keys)

    return guarded(session, lambda: asyncio.run(whole()))


async def _attached(
    executor: Executor, interrupts: Interrupts, execution_id: str, *, reads: bool, keys: DetachKeys
) -> int:
    from .conversation import seen_through
    from .keyboard import Keyboard, refuse_no_terminal

    request = (await executor.inspect(execution_id)).request
    reads &= request.tty or request.stdin_open
    if reads and request.tty:
        refuse_no_terminal()
    async with await executor.attach(execution_id) as job:
        # Asked for before the end, so that one who removes it then does not take the result from us.
        waiting = asyncio.create_task(executor.wait(execution_id))
        try:
            with Keyboard(job, reads=reads, tty=request.tty, keys=keys, redraw=True) as keyboard:
                code = await seen_through(job, interrupts, keyboard)
            if code is None:
                return of_run(await waiting)
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
    if code == 0:
        say(f"left execution {execution_id}, which goes on")
    return code
