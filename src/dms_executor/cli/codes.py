"""Exit codes: the job's own, and what stands in for it where there is none (as docker, timeout and a shell have it)."""

from __future__ import annotations

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

# What execve(2) says of a command, as the init reports it.
_ABSENT = ("No such file or directory",)
_REFUSED = ("Permission denied", "Exec format error", "Is a directory", "Text file busy")


def of_error(error: ExecutorError) -> int:
    """The code of a `run` whose job never ran."""
    from ..errors import StartFailed

    return _never_ran(error.message) if isinstance(error, StartFailed) else CANNOT_RUN


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
        return _never_ran(result.error_msg)
    # A guest of the user's own has no code: its clean end is a success.
    return 0 if result.status == "success" else CANNOT_RUN


def _never_ran(message: str) -> int:
    if any(text in message for text in _ABSENT):
        return NO_COMMAND
    return CANNOT_EXECUTE if any(text in message for text in _REFUSED) else CANNOT_RUN
