"""`wait`, `cancel`, `kill`, `pause`, `resume`, `rm`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .durations import seconds
from .session import Command, Session, completed, each, session_of
from .terminal import emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["cancel_command", "kill_command", "pause_command", "resume_command", "rm_command", "wait_command"]

F = TypeVar("F", bound=Callable[..., Any])


def _ids(which: str) -> Callable[[F], F]:
    """ID..., completed with those that are alive (`ids_alive`) or with all (`ids`)."""

    def decorate(function: F) -> F:
        argument = click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=completed(which))
        return argument(click.pass_context(function))  # type: ignore[return-value]

    return decorate


def _told(session: Session, ids: tuple[str, ...], act: Callable[[Executor, str], Awaitable[None]]) -> int:
    """Does it to each id and prints the id, as docker does."""

    async def whole(executor: Executor) -> int:
        async def one(execution_id: str) -> None:
            await act(executor, execution_id)
            if session.json:
                emit_json({"execution_id": execution_id})
            else:
                emit(execution_id)

        return await each(ids, session, one)

    return session.run(whole)


@click.command("wait", cls=Command, examples="code=$(dms-executor wait brisk-heron-3f9a1c)")
@_ids("ids")
def wait_command(context: click.Context, ids: tuple[str, ...]) -> int:
    """Wait for executions and print the exit code of each, in the order given.

    Where a job has no code, it is the one that `run` would exit with: 125, or 126 and 127. With --json: its result.
    """
    session = session_of(context)

    async def whole(executor: Executor) -> int:
        from .codes import of_job

        async def one(execution_id: str) -> None:
            result = await executor.wait(execution_id)
            if session.json:
                emit_json(result.to_builtins())
            else:
                emit(str(of_job(result)))

        return await each(ids, session, one)

    return session.run(whole)


@click.command(
    "cancel",
    cls=Command,
    examples="""
    dms-executor cancel brisk-heron-3f9a1c
    dms-executor cancel --signal INT --grace 60 brisk-heron-3f9a1c
    """,
)
@click.option(
    "-s",
    "--signal",
    metavar="SIGNAL",
    shell_complete=completed("signals"),
    help="Instead of the image's stop signal, or TERM.",
)
@click.option("-t", "--grace", "--time", "grace", type=seconds, help="Until KILL (30, 2m); 10 without it.")
@_ids("ids_alive")
def cancel_command(context: click.Context, signal: str | None, grace: float | None, ids: tuple[str, ...]) -> int:
    """Terminate executions: a signal, a grace period, then KILL. Returns when they are gone."""

    async def cancel(executor: Executor, execution_id: str) -> None:
        await executor.cancel(execution_id, signal=signal, grace=grace)

    return _told(session_of(context), ids, cancel)


@click.command("kill", cls=Command, examples="dms-executor kill -s HUP brisk-heron-3f9a1c")
@click.option(
    "-s",
    "--signal",
    default="KILL",
    show_default=True,
    metavar="SIGNAL",
    shell_complete=completed("signals"),
    help="Name or number.",
)
@_ids("ids_alive")
def kill_command(context: click.Context, signal: str, ids: tuple[str, ...]) -> int:
    """Send a signal to the main process of running jobs."""

    async def send(executor: Executor, execution_id: str) -> None:
        await executor.send_signal(execution_id, signal)

    return _told(session_of(context), ids, send)


@click.command("pause", cls=Command, examples="dms-executor pause brisk-heron-3f9a1c")
@_ids("ids_alive")
def pause_command(context: click.Context, ids: tuple[str, ...]) -> int:
    """Freeze jobs; their timeouts go on."""
    return _told(session_of(context), ids, lambda executor, execution_id: executor.pause(execution_id))


@click.command("resume", cls=Command, examples="dms-executor resume brisk-heron-3f9a1c")
@_ids("ids_alive")
def resume_command(context: click.Context, ids: tuple[str, ...]) -> int:
    """Let frozen jobs go on."""
    return _told(session_of(context), ids, lambda executor, execution_id: executor.resume(execution_id))


@click.command(
    "rm",
    cls=Command,
    examples="""
    dms-executor rm brisk-heron-3f9a1c
    dms-executor rm -f $(dms-executor ps -aq)
    """,
)
@click.option("-f", "--force", is_flag=True, help="Cancel those that are not finished.")
@_ids("ids")
def rm_command(context: click.Context, force: bool, ids: tuple[str, ...]) -> int:
    """Remove executions with their logs and results; their ids are free again."""

    async def remove(executor: Executor, execution_id: str) -> None:
        await executor.remove(execution_id, force=force)

    return _told(session_of(context), ids, remove)
