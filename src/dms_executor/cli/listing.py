"""`ps` and `inspect`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from .durations import ago
from .ports import shown_ports
from .session import Command, completed, each, session_of
from .terminal import emit, emit_json, table

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import ExecutionInfo

__all__ = ["inspect_command", "ps_command"]

_STATUSES = ("pending", "running", "paused", "success", "failed", "cancelled")
_ALIVE = _STATUSES[:3]
_HIDDEN = "***"
_ENDS = {
    "timed_out": "timed out",
    "start_failed": "failed to start",
    "engine_lost": "lost by its engine",
    "outputs_failed": "lost its outputs",
    "oom_killed": "out of memory",
    "cancelled": "cancelled",
}


@click.command(
    "ps",
    cls=Command,
    examples="""
    dms-executor ps
    dms-executor ps -a --status failed --label team=search
    dms-executor logs $(dms-executor ps -lq)
    dms-executor cancel $(dms-executor ps -q --job-id nightly)
    """,
)
@click.option("-a", "--all", "finished_too", is_flag=True, help="Finished ones, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only their ids.")
@click.option("--no-trunc", is_flag=True, help="Whole commands and images.")
@click.option(
    "-n", "--last", type=click.IntRange(min=0), metavar="N", help="The last N that were made, finished or not."
)
@click.option("-l", "--latest", is_flag=True, help="The last one that was made: -n 1.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(_STATUSES), help="Only of this status.")
@click.option("--job-id", metavar="ID", help="Only of this job.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Only with this label.")
@click.pass_context
def ps_command(
    context: click.Context,
    finished_too: bool,
    quiet: bool,
    no_trunc: bool,
    last: int | None,
    latest: bool,
    statuses: tuple[str, ...],
    job_id: str | None,
    labels: tuple[str, ...],
) -> int:
    """List executions, the latest first; without -a only those that are not finished."""
    session = session_of(context)
    last = 1 if latest and last is None else last
    wanted = statuses or (None if finished_too or last is not None else _ALIVE)
    pairs = dict(label.partition("=")[::2] for label in labels)

    async def show(executor: Executor) -> None:
        found = await executor.list(statuses=wanted, job_id=job_id, labels=pairs, limit=last, newest_first=True)
        if quiet:
            for info in found:
                emit(info.request.execution_id)
        elif session.json:
            for info in found:
                emit_json(_shown(info, environment=False))
        else:
            _print_table(found, width=None if no_trunc else 24)

    return session.run(show)


@click.command("inspect", cls=Command, examples="dms-executor inspect --show-environment brisk-heron-3f9a1c")
@click.option("--show-environment", is_flag=True, help="The values of environment variables, too.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=completed("ids"))
@click.pass_context
def inspect_command(context: click.Context, show_environment: bool, ids: tuple[str, ...]) -> int:
    """Show all that is known of executions, as JSON.

    Secrets are never in it, values of environment variables only on demand.
    """
    import json

    session = session_of(context)

    async def show(executor: Executor) -> int:
        async def one(execution_id: str) -> None:
            fields = _shown(await executor.inspect(execution_id), environment=show_environment)
            if session.json:
                emit_json(fields)
            else:
                emit(json.dumps(fields, indent=2, ensure_ascii=False))

        return await each(ids, session, one)

    return session.run(show)


def _shown(info: ExecutionInfo, *, environment: bool) -> dict[str, Any]:
    from ..types import to_builtins

    fields: dict[str, Any] = to_builtins(info)
    request = fields["request"]
    if not environment:
        for holder in (request, request["engine_spec"]["params"]):
            if isinstance(holder.get("environment"), dict):
                holder["environment"] = dict.fromkeys(holder["environment"], _HIDDEN)
    return fields


def _print_table(found: list[ExecutionInfo], *, width: int | None) -> None:
    now = datetime.now(UTC)
    rows = []
    for info in found:
        params = info.request.engine_spec.params
        created = f"{ago((now - info.created_at).total_seconds())} ago"
        texts = [_cut(str(params.get("image", "-")), width, end=True), _cut(_command(params), width)]
        ports = shown_ports(info.ports) if info.finished_at is None else ""
        rows.append([info.request.execution_id, info.engine, *texts, created, _status(info, now), ports])
    # Without any there is no column for them.
    columns = 7 if any(row[6] for row in rows) else 6
    header = ["ID", "ENGINE", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS"]
    table(header[:columns], [row[:columns] for row in rows])


def _command(params: dict[str, Any]) -> str:
    words = [*(params.get("entrypoint") or []), *(params.get("cmd") or [])]
    if not words and params.get("script"):
        return "; ".join(map(str, params["script"]))
    import shlex

    return shlex.join(map(str, words)) if words else "-"


def _status(info: ExecutionInfo, now: datetime) -> str:
    stale = " (its engine does not answer)" if info.stale else ""
    if info.finished_at is None:
        began = info.started_at or info.created_at
        waits = f" ({_cut(info.waits_for, 60)})" if info.waits_for else ""
        return f"{info.status} {ago((now - began).total_seconds())}{stale}{waits}"
    end = _ENDS.get(info.reason or "", "exited")
    code = "" if info.exit_code is None else f" ({info.exit_code})"
    return f"{end}{code} {ago((now - info.finished_at).total_seconds())} ago"


def _cut(text: str, width: int | None, *, end: bool = False) -> str:
    """One line of printable text; of a path the end says more than the beginning."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    if width is None or len(line) <= width:
        return line
    return "…" + line[1 - width :] if end else line[: width - 1] + "…"
