"""Completion in a shell, by click's own mechanism: ids, engines, signals. `completion` prints a shell's script."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from .session import Command, Session, session_of
from .terminal import emit

if TYPE_CHECKING:
    from ..types import ExecutionInfo

__all__ = ["completion_command", "engines", "ids", "ids_alive", "ids_with_colon", "signals"]

VARIABLE = "_DMS_EXECUTOR_COMPLETE"
_ALIVE = ("pending", "running", "paused")
_LOOKED_THROUGH = 1000  # the newest ones: a key must be answered at once, however long the history is
_AT_MOST = 200


@click.command(
    "completion",
    cls=Command,
    examples="""
    eval "$(dms-executor completion bash)"
    dms-executor completion fish > ~/.config/fish/completions/dms-executor.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the script by which a shell completes commands, options, ids and engines.

    For every new shell: the `eval` line in ~/.bashrc or ~/.zshrc (there below `compinit`).
    """
    kind = get_completion_class(shell)
    assert kind is not None
    emit(kind(click.Command("dms-executor"), {}, "dms-executor", VARIABLE).source())
    return 0


def ids_alive(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Executions that are not finished."""
    return _ids(session_of(context), incomplete, _ALIVE)


def ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """All executions, the latest first."""
    return _ids(session_of(context), incomplete, None)


def ids_with_colon(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`ID:` of `cp`; where no id begins so, the files of this machine."""
    found = ids_alive(context, parameter, incomplete) if "/" not in incomplete else []
    # Not both: click's script for bash forgets what came before files.
    return [CompletionItem(f"{item.value}:", help=item.help) for item in found] or [CompletionItem("", type="file")]


def engines(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Installed engines."""
    from ..registry import engine_names

    return [name for name in engine_names() if name.startswith(incomplete)]


def signals(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of signals, without SIG."""
    begin = incomplete.upper().removeprefix("SIG")
    names = (number.name.removeprefix("SIG") for number in signal.Signals)
    return [name for name in names if name.startswith(begin)]


def _ids(session: Session, incomplete: str, statuses: tuple[str, ...] | None) -> list[CompletionItem]:
    # Whoever presses a key gets names or nothing, and never words in the middle of a line.
    logging.getLogger("dms_executor").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_listed(session, incomplete, statuses))
    except Exception:  # noqa: BLE001
        return []


async def _listed(session: Session, incomplete: str, statuses: tuple[str, ...] | None) -> list[CompletionItem]:
    if not await asyncio.to_thread(session.used_before):
        return []  # completing makes no state folder
    async with session.open(follow=False) as executor:
        found = await executor.list(statuses=statuses, limit=_LOOKED_THROUGH, newest_first=True)
    chosen = [info for info in found if info.request.execution_id.startswith(incomplete)]
    return [CompletionItem(info.request.execution_id, help=_about(info)) for info in chosen[:_AT_MOST]]


def _about(info: ExecutionInfo) -> str:
    params: dict[str, Any] = info.request.engine_spec.params
    command = " ".join(map(str, params.get("cmd") or params.get("script") or []))
    return f"{info.status}: {command[:40]}" if command else str(info.status)
