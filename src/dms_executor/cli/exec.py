"""`exec`: a further command in a running job, with our stdin and on our terminal where it is asked for."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .codes import CANNOT_RUN, TIMED_OUT
from .durations import seconds
from .keys import DEFAULT, DetachKeys
from .run import guarded
from .session import Command, Session, completed, session_of
from .terminal import emit_json

if TYPE_CHECKING:
    from ..executor import Executor
    from .foreground import Interrupts

__all__ = ["exec_command"]

_REPEATED: dict[str, Any] = {"multiple": True}


@click.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples="""
    dms-executor exec brisk-heron-3f9a1c ps
    dms-executor exec -it brisk-heron-3f9a1c sh
    tar c . | dms-executor exec -i brisk-heron-3f9a1c tar x -C /tmp
    """,
)
@click.option("-i", "--interactive", is_flag=True, help="Give our stdin to the command.")
@click.option("-t", "--tty", is_flag=True, help="Run it on a terminal, which is ours.")
@click.option("--detach-keys", default=DEFAULT, show_default=True, metavar="KEYS", help="What leaves the terminal.")
@click.option("-e", "--env", **_REPEATED, metavar="K=V", help="A variable; K alone is taken from here.")
@click.option("-w", "--workdir", metavar="DIR", help="Working directory inside.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="User inside, by name or number.")
@click.option("--timeout", type=seconds, help="Kill the command after so long (90, 10m); exit code 124.")
@click.argument("execution_id", metavar="ID", shell_complete=completed("ids_alive"))
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD...")
@click.pass_context
def exec_command(context: click.Context, /, **options: Any) -> int:
    """Execute a further command in a running job.

    Its exit code is ours: 124 after a timeout, 125 if it could not be made, 126 and 127 if it is not executable or
    not there. It ends with us, however we end, by the keys that leave as well; the job goes on.
    """
    session = session_of(context)
    return guarded(session, lambda: asyncio.run(_execute(session, options)))


async def _execute(session: Session, options: dict[str, Any]) -> int:
    from .conversation import seen_through
    from .foreground import Interrupts
    from .keyboard import Keyboard, refuse_no_terminal, terminal_size

    reads, tty, keys = options["interactive"], options["tty"], DetachKeys(options["detach_keys"])
    if reads and tty:
        refuse_no_terminal()
    with Interrupts() as interrupts:
        async with session.open() as executor:
            if session.json:
                return await _as_one_object(executor, options, interrupts)
            command = await executor.exec_session(
                options["execution_id"],
                options["words"],
                tty=tty,
                size=terminal_size() if tty else None,
                environment=dict(map(_variable, options["env"])),
                working_directory=options["workdir"],
                user=options["user"],
                timeout=options["timeout"],
            )
            async with command:
                if not reads and not tty:
                    command.close_stdin()
                with Keyboard(command, reads=reads, tty=tty, keys=keys) as keyboard:
                    code = await seen_through(command, interrupts, keyboard)
                return _code(await command.wait(), timed_out=command.timed_out) if code is None else code


async def _as_one_object(executor: Executor, options: dict[str, Any], interrupts: Interrupts) -> int:
    """With --json its whole result is one line at its end."""
    if options["tty"]:
        raise click.UsageError("--json gives a result, and a terminal has none: leave out -t")
    working = asyncio.create_task(
        executor.exec(
            options["execution_id"],
            options["words"],
            stdin=await asyncio.to_thread(_read) if options["interactive"] else b"",
            environment=dict(map(_variable, options["env"])),
            working_directory=options["workdir"],
            user=options["user"],
            timeout=options["timeout"],
        )
    )
    interrupted = asyncio.create_task(interrupts.next())
    try:
        await asyncio.wait({working, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return 128 + interrupted.result()
        result = working.result()
    finally:
        for task in (working, interrupted):
            task.cancel()
        await asyncio.wait({working, interrupted})
    emit_json({"execution_id": options["execution_id"], **result.to_builtins()})
    return _code(result.exit_code, timed_out=result.timed_out)


def _read() -> bytes:
    return sys.stdin.buffer.read()


def _code(code: int | None, *, timed_out: bool) -> int:
    if timed_out:
        return TIMED_OUT
    return CANNOT_RUN if code is None else code


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    return name, value if separator else os.environ.get(name, "")
