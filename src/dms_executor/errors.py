"""Every exception that this package raises on purpose.

ExecutorError
├── InvalidRequest            the request is wrong; names the path of the field
├── PolicyDenied              the owner of the machine does not allow it; names the option that would
├── NotSupported              the engine cannot do it; names engine and field or method
├── EngineUnavailable         the engine is not usable here; says how to mend it
├── ResourcesUnavailable      capacity or descriptors are used up
├── ImageNotFound             no such image
├── ImageInUse                it cannot be removed: an execution uses it
├── ImagePullFailed           .cause_kind: auth, network, platform, limit
├── StartFailed               created, but the job's command never ran; .errno
├── ExecutionNotFound
├── ExecutionAlreadyStarted
├── ExecutionAlreadyFinished
├── ExecutionNotRunning       .status says what it is instead
├── ExecutionNotFinished
├── ExecutionCancelled
├── ResultExpired             retention has taken the result or its log
├── CopyFailed                .errno; part of it may have been copied
├── SnapshotFailed            it could not be saved, and goes on as it was; .errno
├── ExecutorClosed
├── EngineUnreachable         the engine does not answer just now; asked again with backoff
└── StateError                the state folder
    ├── StateTooNew           written by a newer release
    ├── StateDamaged
    └── StateUnwritable       full, read-only, of another user, or on a network file system
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = [
    "CopyFailed",
    "EngineUnavailable",
    "EngineUnreachable",
    "ExecutionAlreadyFinished",
    "ExecutionAlreadyStarted",
    "ExecutionCancelled",
    "ExecutionNotFinished",
    "ExecutionNotFound",
    "ExecutionNotRunning",
    "ExecutorClosed",
    "ExecutorError",
    "ImageInUse",
    "ImageNotFound",
    "ImagePullFailed",
    "InvalidRequest",
    "NotSupported",
    "PolicyDenied",
    "ResourcesUnavailable",
    "ResultExpired",
    "SnapshotFailed",
    "StartFailed",
    "StateDamaged",
    "StateError",
    "StateTooNew",
    "StateUnwritable",
]


class ExecutorError(Exception):
    """The root of the tree.

    `message` says what was wrong, `mend` how to mend it; `str()` joins both. `execution_id` is None
    where no execution is concerned. Every instance pickles.
    """

    def __init__(self, message: str, *, mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.execution_id = execution_id

    def __str__(self) -> str:
        return f"{self.message}. {self.mend}" if self.mend else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[ExecutorError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ExecutorError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(attributes)
    return error


class InvalidRequest(ExecutorError):
    """The request is wrong. `path` is the field's JSON path (`$.resources.memory`)."""

    def __init__(self, message: str, *, path: str = "$", mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(f"{path}: {message}", mend=mend, execution_id=execution_id)
        self.path = path


class PolicyDenied(ExecutorError):
    """The policy of the machine's owner does not allow what the request asks for."""


class NotSupported(ExecutorError):
    """`engine` cannot do `what` (a method's name or a field's JSON path)."""

    def __init__(
        self, message: str, *, engine: str = "", what: str = "", mend: str = "", execution_id: str | None = None
    ) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.engine = engine
        self.what = what


class EngineUnavailable(ExecutorError):
    """The engine cannot be used on this host."""


class ResourcesUnavailable(ExecutorError):
    """Capacity is used up, or the process ran out of descriptors."""


class ImageNotFound(ExecutorError):
    """There is no such image."""


class ImageInUse(ExecutorError):
    """An execution uses the image, and so it cannot be removed."""


class ImagePullFailed(ExecutorError):
    """The image could not be had. `cause_kind` is auth, network, platform, or limit: it holds too much."""

    def __init__(
        self,
        message: str,
        *,
        cause_kind: Literal["auth", "network", "platform", "limit"] = "network",
        mend: str = "",
        execution_id: str | None = None,
    ) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.cause_kind = cause_kind


class StartFailed(ExecutorError):
    """The job's command never ran: missing, not executable, unknown user, or the runtime refused.

    `errno`: what execve(2) said of the command (ENOENT, EACCES, ENOEXEC, ...); None where it was not asked.
    """

    def __init__(
        self, message: str, *, errno: int | None = None, mend: str = "", execution_id: str | None = None
    ) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.errno = errno


class ExecutionNotFound(ExecutorError):
    """No execution of that id, or not of that job."""


class ExecutionAlreadyStarted(ExecutorError):
    """The id is taken by an execution that is not finished."""


class ExecutionAlreadyFinished(ExecutorError):
    """The execution is in a terminal status, `status`."""

    def __init__(self, message: str, *, status: str = "", mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.status = status


class ExecutionNotRunning(ExecutorError):
    """The execution's `status` does not allow the call."""

    def __init__(self, message: str, *, status: str = "", mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.status = status


class ExecutionNotFinished(ExecutorError):
    """The execution still runs."""


class ExecutionCancelled(ExecutorError):
    """The execution was cancelled before its job ran."""


class ResultExpired(ExecutorError):
    """Retention has taken the result or the log; the record is still there."""


class CopyFailed(ExecutorError):
    """A copy could not begin or stopped half-way. `errno` is the system's, 0 where there is none."""

    def __init__(self, message: str, *, errno: int = 0, mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.errno = errno


class SnapshotFailed(ExecutorError):
    """A job could not be saved to disk, and goes on as it was. `errno` is the system's, 0 where there is none."""

    def __init__(self, message: str, *, errno: int = 0, mend: str = "", execution_id: str | None = None) -> None:
        super().__init__(message, mend=mend, execution_id=execution_id)
        self.errno = errno


class ExecutorClosed(ExecutorError):
    """The executor was closed meanwhile. Running jobs go on."""


class EngineUnreachable(ExecutorError):
    """The engine does not answer; what it runs is unknown, not lost."""


class StateError(ExecutorError):
    """The state folder cannot be used."""


class StateTooNew(StateError):
    """The state folder was written by a newer release of this package."""


class StateDamaged(StateError):
    """The state folder is damaged beyond what can be rebuilt."""


class StateUnwritable(StateError):
    """The state folder is full, read-only, another user's, or on a file system that cannot hold it."""
