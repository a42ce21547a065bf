"""`dms-executor` alone: what it is, the first job, and where to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .terminal import emit

if TYPE_CHECKING:
    from .session import Session

__all__ = ["welcome"]

_FIRST_JOB = """\
A first job, in a root of nothing but busybox (package busybox-static):

  install -D "$(command -v busybox)" root/bin/sh
  dms-executor run rootfs:root sh -c 'echo hi'

and what became of it:

  dms-executor ps -a
"""
_ENGINES = "`dms-executor engines` tells what this machine can do, and how to mend what it cannot.\n"


def welcome(context: click.Context, session: Session) -> None:
    """To stdout; where no job has run yet, with the first one. Opens nothing and makes nothing."""
    if session.json:
        raise click.UsageError("Missing command.", context)
    emit(context.get_help() + "\n")
    if not session.used_before():
        emit(_FIRST_JOB)
    emit(_ENGINES.rstrip())
