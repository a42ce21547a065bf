"""Exit codes: the job's own, and what stands in for it where there is none (as docker, timeout and a shell have it)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import ExecutorError
    from ..types import ExecutionResult

__all__ = [
    "CANNOT_EXECUTE",
    "CANNOT_RUN",
    "FAILED",
    "INTERRUPTED",
    "NO_COMMAND",
    "TIMED_OUT",
    "USAGE",
    "of_error",
    "of_job",
    "of_run",
]

FAILED = 1
USAGE = 2
TIMED_OUT = 124
CANNOT_RUN = 125
CANNOT_EXECUTE = 126
NO_COMMAND = 127
INTERRUPTED = 130


def of_error(error: ExecutorError) -> int:
    """The code of a `run` whose job never ran."""
    from ..errors import StartFailed

    return _never_ran(error.errno) if isinstance(error, StartFailed) else CANNOT_RUN


def of_run(result: ExecutionResult) -> int:
    """The code with which `run` exits."""
    if result.reason == "timed_out":
        return TIMED_OUT
    code = of_job(result)
    # A job that ended well and whose outputs are missing did not do what it was asked for.
    return CANNOT_RUN if code == 0 and result.reason == "outputs_failed" else code


def of_job(result: ExecutionResult) -> int:
    """The job's own code; where nobody can know it, 125, or 126 and 127 where its command could not be executed."""
    if result.exit_code is not None:
        return result.exit_code
    if result.reason == "start_failed":
        return _never_ran(result.failure.errno if result.failure is not None else None)
    # A guest of the user's own has no code: its clean end is a success.
    return 0 if result.status == "success" else CANNOT_RUN


def _never_ran(number: int | None) -> int:
    """By what execve(2) said of the command, as a shell has it."""
    if number is None:
        return CANNOT_RUN
    return NO_COMMAND if number in (errno.ENOENT, errno.ENOTDIR) else CANNOT_EXECUTE
