"""Why an execution never ran, as the record keeps it: enough for everybody who asks later to get the same error."""

from __future__ import annotations

from . import errors
from .errors import ExecutorError, ImagePullFailed, StartFailed
from .types import Failure

__all__ = ["error_of", "failure_of"]


def failure_of(error: ExecutorError) -> Failure:
    """What is kept of an error."""
    return Failure(
        kind=next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in errors.__all__),
        message=error.message,
        mend=error.mend,
        errno=error.errno if isinstance(error, StartFailed) else None,
        cause_kind=error.cause_kind if isinstance(error, ImagePullFailed) else None,
    )


def error_of(failure: Failure, execution_id: str) -> ExecutorError:
    """The error as it was raised. One of a kind that this release does not know is a `StartFailed`."""
    kind = getattr(errors, failure.kind, None) if failure.kind in errors.__all__ else None
    if not isinstance(kind, type) or not issubclass(kind, ExecutorError):
        kind = StartFailed
    # Not by its constructor, whose arguments are those of the kind; what an attribute is to be stands in the record.
    error = kind.__new__(kind)
    ExecutorError.__init__(error, failure.message, mend=failure.mend, execution_id=execution_id)
    if isinstance(error, StartFailed):
        error.errno = failure.errno
    if isinstance(error, ImagePullFailed):
        error.cause_kind = failure.cause_kind or "network"
    return error
