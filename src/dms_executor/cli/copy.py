"""`cp`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from .session import Command, completed, session_of
from .terminal import STDOUT

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["cp_command"]

_STDIN = 0
_SIDE = completed("ids_with_colon")
_IN_JOB = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127}):(.*)", re.DOTALL)


@click.command(
    "cp",
    cls=Command,
    examples="""
    dms-executor cp model.bin brisk-heron-3f9a1c:/data/
    dms-executor cp brisk-heron-3f9a1c:/var/log ./log
    tar c . | dms-executor cp - brisk-heron-3f9a1c:/src
    dms-executor cp brisk-heron-3f9a1c:/out - | tar t
    """,
)
@click.option("-a", "--archive", is_flag=True, help="Keep user and group ids, and set-user-id bits on the way out.")
@click.option("-L", "--follow-link", is_flag=True, help="Follow SRC where it is a symbolic link.")
@click.argument("source", metavar="SRC|ID:SRC|-", type=click.UNPROCESSED, shell_complete=_SIDE)
@click.argument("target", metavar="DST|ID:DST|-", type=click.UNPROCESSED, shell_complete=_SIDE)
@click.pass_context
def cp_command(context: click.Context, archive: bool, follow_link: bool, source: str, target: str) -> int:
    """Copy files and folders into a running job, or out of it, as docker does.

    A folder is copied as DST where that is not there yet, and into it where it is; SRC/. is what is in SRC. `-` is a
    tar archive on stdin or stdout. A path of this machine that holds a colon begins with / or ./
    """
    session = session_of(context)
    inside, outside = _sides(context, source, target)
    execution_id, path = inside
    options = {"follow": follow_link, "keep_owner": archive}

    async def copy(executor: Executor) -> None:
        if outside is source:
            await executor.copy_in(execution_id, _STDIN if source == "-" else source, path, **options)
        else:
            await executor.copy_out(execution_id, path, STDOUT if target == "-" else target, **options)

    return session.run(copy)


def _sides(context: click.Context, source: str, target: str) -> tuple[tuple[str, str], str]:
    """Id and path of the side in the job, and the other one."""
    there, here = _IN_JOB.fullmatch(source), _IN_JOB.fullmatch(target)
    if (there is None) == (here is None):
        raise click.UsageError("one of SRC and DST is ID:PATH, a path in a job, and the other is not", context)
    if source == "-" and os.isatty(_STDIN):
        raise click.UsageError("stdin is a terminal, and SRC - reads a tar archive from it", context)
    if target == "-" and os.isatty(STDOUT):
        raise click.UsageError("stdout is a terminal, and DST - writes a tar archive to it", context)
    if there is not None:
        return (there[1], there[2]), target
    return _parts(here), source


def _parts(match: re.Match[str] | None) -> tuple[str, str]:
    return (match[1], match[2]) if match is not None else ("", "")
