"""The log of an execution in any phase, as a stream that knows when the execution has ended."""

from __future__ import annotations

import asyncio

import msgspec

from .errors import ExecutionCancelled, ExecutorClosed, ExecutorError
from .failures import error_of
from .journal import Row
from .lifecycle import Core
from .lifecycle.finish import load_result
from .lifecycle.follow import settled
from .logs.stream import LogStream
from .types import Failure, LogStreamRequest, validated

__all__ = ["opened_log"]


async def opened_log(
    core: Core, request: LogStreamRequest, execution_id: str | None = None, *, mid_line: bool = False
) -> LogStream:
    """A stream of one execution's output. A follower of a pending one waits for it, and raises what its start did.

    `mid_line`: with `tail` it begins at the very place, not at the next line.
    Raises `InvalidRequest`, `ExecutionNotFound` (also for a `job_id` that is not its own), `ResultExpired`.
    """
    if execution_id is not None and execution_id != request.execution_id:
        request = msgspec.structs.replace(request, execution_id=execution_id)
    request = validated(request, LogStreamRequest)
    row = await core.row(request.execution_id, request.job_id)
    if row.expired or row.delivered_at is not None:
        await load_result(core, row)  # raises ResultExpired where the log is gone
    end = _End(core, row)
    if request.follow and not row.terminal:
        end.task = core.tasks.spawn(end.watch(), f"end of log {row.id}")
    else:
        end.finished.set()
        end.failure = _failure(row) if row.terminal and request.follow else None
    return await LogStream.open(
        core.journal.folder(row.token),
        request,
        watcher=core.changes.watcher,
        finished=end.finished,
        failure=lambda: end.failure,
        executor=core.files,
        on_close=end.close,
        mid_line=mid_line,
    )


class _End:
    """Tells a follower that its execution has its terminal status, or that the executor was closed."""

    def __init__(self, core: Core, row: Row) -> None:
        self._core, self._row = core, row
        self.finished = asyncio.Event()
        self.failure: ExecutorError | None = None
        self.task: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        try:
            row = await settled(self._core, self._row.token)
            self.failure = _failure(row) if row is not None else None
        except ExecutorError as error:
            self.failure = error
        except asyncio.CancelledError:
            self.failure = ExecutorClosed("the executor was closed", execution_id=self._row.id)
            raise
        finally:
            self.finished.set()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()


def _failure(row: Row) -> ExecutorError | None:
    if row.started_at is not None:
        return None
    if row.reason == "cancelled":
        return ExecutionCancelled(f"execution {row.id} was cancelled before its job ran", execution_id=row.id)
    if row.reason != "start_failed":
        return None
    failure = row.result.failure if row.result is not None else None
    # A record of an older release says no more than the message.
    return error_of(failure or Failure(kind="StartFailed", message=row.message), row.id)
