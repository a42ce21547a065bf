"""`stats`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from .pipe import while_somebody_reads
from .session import Command, completed, each, session_of
from .terminal import STDOUT, emit_json, table

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import Stats

__all__ = ["stats_command"]

_INTERVAL = 1.0
_FIRST = 0.2  # seconds between the two samples without which there is no percentage
_HEAD = ("ID", "CPU %", "MEMORY", "LIMIT", "CACHE", "PIDS", "READ", "WRITTEN", "RECEIVED", "SENT")
_CLEAR = b"\x1b[H\x1b[J"


@click.command(
    "stats",
    cls=Command,
    examples="""
    dms-executor stats
    dms-executor stats --no-stream brisk-heron-3f9a1c
    dms-executor --json stats brisk-heron-3f9a1c
    """,
)
@click.option("--no-stream", is_flag=True, help="One look, then end.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=_INTERVAL, metavar="SECONDS", help="1 without it.")
@click.argument("ids", nargs=-1, metavar="[ID...]", shell_complete=completed("ids_alive"))
@click.pass_context
def stats_command(context: click.Context, no_stream: bool, interval: float, ids: tuple[str, ...]) -> int:
    """Show what running jobs use, again and again until they have ended; without IDs all that run.

    MEMORY holds CACHE, which the kernel takes back when it needs it. CPU: 100 is one core. -: it cannot be told.
    """
    session = session_of(context)

    async def show(executor: Executor) -> int | None:
        async def known(execution_id: str) -> None:
            await executor.stats(execution_id)

        code = await each(ids, session, known)
        if code != 0:
            return code
        work = _follow(executor, ids, interval, as_json=session.json, once=no_stream)
        await while_somebody_reads(STDOUT, work)
        return 0

    return session.run(show)


async def _follow(executor: Executor, ids: tuple[str, ...], interval: float, *, as_json: bool, once: bool) -> None:
    if await _samples(executor, ids):
        await asyncio.sleep(min(interval, _FIRST))
    while True:
        found = await _samples(executor, ids)
        if ids and not found:
            return
        _show(found, as_json=as_json, redraw=not once and os.isatty(STDOUT))
        if once:
            return
        await asyncio.sleep(interval)


async def _samples(executor: Executor, ids: tuple[str, ...]) -> dict[str, Stats]:
    from ..errors import ExecutionNotFound, ExecutionNotRunning, NotSupported

    wanted = ids or [info.request.execution_id for info in await executor.list(statuses=["running", "paused"])]
    found: dict[str, Stats] = {}
    for execution_id in wanted:
        with contextlib.suppress(ExecutionNotRunning, ExecutionNotFound, NotSupported):
            found[execution_id] = await executor.stats(execution_id)
    return found


def _show(found: dict[str, Stats], *, as_json: bool, redraw: bool) -> None:
    if as_json:
        from ..types import to_builtins

        for execution_id, stats in found.items():
            emit_json({"execution_id": execution_id, **to_builtins(stats)})
        return
    if redraw:
        os.write(STDOUT, _CLEAR)
    table(_HEAD, [_row(execution_id, stats) for execution_id, stats in found.items()])


def _row(execution_id: str, stats: Stats) -> list[str]:
    percent = f"{stats.cpu_percent:.1f}" if stats.cpu_percent is not None else "-"
    sizes = (stats.memory_bytes, stats.memory_limit_bytes, stats.memory_cache_bytes)
    moved = (stats.io_read_bytes, stats.io_write_bytes, stats.network_received_bytes, stats.network_sent_bytes)
    pids = str(stats.pids) if stats.pids is not None else "-"
    return [execution_id, percent, *map(_size, sizes), pids, *map(_size, moved)]


def _size(value: Any) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}TiB"
