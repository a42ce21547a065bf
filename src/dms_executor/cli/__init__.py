"""The command line. `main` is the console script: every way out of it is an exit code, none is a traceback.

Only click is imported at the top of these modules; the rest where a command needs it, since start-up time counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from ..errors import ExecutorError
from .codes import CANNOT_RUN, FAILED, INTERRUPTED, USAGE
from .commands import group
from .habits import of_option
from .terminal import open_standard_descriptors, report, silence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0, the job's code (`run`), 1 on an error, 2 on a wrong usage (125 in `run`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_standard_descriptors()
    code = _code(given)
    try:
        if sys.stdout is not None:  # None: it was closed when we began
            sys.stdout.flush()
    except BrokenPipeError:
        silence()
    if arguments is None:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """Ends the process as it is: taking Python's modules apart would take as long as a container."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.flush()
    os._exit(code)


def _code(given: list[str]) -> int:
    as_json = "--json" in given
    try:
        code = group.main(args=given, prog_name="dms-executor", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        report(_usage(error), as_json=as_json, kind="UsageError")
        return CANNOT_RUN if error.ctx is not None and error.ctx.info_name in ("run", "exec") else USAGE
    except click.ClickException as error:
        report(ExecutorError(error.format_message()), as_json=as_json, kind="UsageError")
        return error.exit_code
    except ExecutorError as error:
        report(error, as_json=as_json)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        report(ExecutorError(_system(error)), as_json=as_json, kind="OSError")
        return FAILED


def _usage(error: click.UsageError) -> ExecutorError:
    wrong = ExecutorError(error.format_message().rstrip("."))
    hint = getattr(error, "hint", "") or (of_option(error.option_name) if isinstance(error, click.NoSuchOption) else "")
    if hint:
        wrong.mend = hint
    elif error.ctx is not None:
        wrong.mend = f"`{error.ctx.command_path} --help` shows how it is used"
    return wrong


def _system(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {what}" if error.filename else what
