"""The end of an execution: the only place that decides a status and the only one that builds a result."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import msgspec

from .. import faults
from ..engine import Exit
from ..errors import ExecutionCancelled, ExecutorError, ResultExpired
from ..failures import failure_of
from ..journal import Intent, Row, files
from ..journal.clock import moment
from ..logs.backward import read_tail
from ..types import ExecutionRequest, ExecutionResult, ExecutionStatus, Failure, Output, Reason
from .core import Core
from .deadline import dismiss_keeper
from .live import Live
from .trace import traced

__all__ = ["build_result", "finish", "load_result", "not_started", "with_output"]

_log = logging.getLogger(__name__)


async def finish(core: Core, live: Live, end: Exit) -> None:
    """From the engine's word of the end to the recorded result, and the engine's leftovers gone."""
    x, engine = live.x, live.engine
    outputs: list[Output] = []
    problem = ""
    if _collects(x.request):
        if await core.journal.ended(x.token, end) is None and not await _mine(core, x.token):
            return
        faults.point("ended_committed")
        outputs, problem = await _collect(live, end)
        faults.point("collected")
    tails = asyncio.ensure_future(_tails(core, x.token))  # read while the commit goes on
    try:
        if x.request.persist_logs == 0:
            await asyncio.wait([tails])  # once it is committed, who delivers the result elsewhere drops the log
        result = await core.journal.finished(x.token, lambda intent: build_result(live, end, intent, outputs, problem))
        faults.point("finished_committed")
        if result is not None:
            _log.info("%s (%s)", result.status, result.reason, extra={"execution_id": x.id, "engine": engine.name})
            live.conclude(_joined(result, await tails))
    finally:
        tails.cancel()
    if result is None:
        return  # another process recorded it, and clears away; recovery does so if that one dies first
    with traced(live, "destroy"):
        await engine.destroy(x, live.handle)
    faults.point("destroyed")
    await core.journal.done(x.token)


async def not_started(core: Core, live: Live, error: ExecutorError) -> None:
    """A start that failed or was cancelled after its claim: nothing is left behind but the failed record and log."""
    x = live.x
    error.execution_id = x.id
    result = None
    try:
        gone = await _undone(core, live)
        end = Exit(finished_at=datetime.now(UTC), error=error.message)
        why = failure_of(error)
        cancelled = live.intent if isinstance(error, ExecutionCancelled) else None
        result = await core.journal.finished(
            x.token, lambda intent: build_result(live, end, (intent or cancelled) if cancelled else None, [], "", why)
        )
        if result is not None:
            _log.info("%s: %s", result.status, error, extra={"execution_id": x.id, "engine": live.engine.name})
            result = await with_output(core, result, x.token)
        if gone:
            await core.journal.done(x.token)
        else:
            core.settle_soon()
    except ExecutorError as worse:
        # Why it did not start is what its caller wants to know; the record follows once it can be written.
        _log.warning("%s", worse, extra={"execution_id": x.id, "engine": live.engine.name})
        core.settle_soon()
    finally:
        core.live.pop(x.token, None)
        live.done.set()
        live.conclude(result, error)


async def _undone(core: Core, live: Live) -> bool:
    """Takes away what a start has made. False: the engine could not, and recovery does so later."""
    x = live.x
    await core.in_thread(files.sweep, x.folder)
    await dismiss_keeper(core, live)
    try:
        await live.engine.destroy(x, live.handle)
    except Exception as error:  # noqa: BLE001, an engine's own defect must not hide why the start failed
        _log.exception("undoing a start: %s", error, extra={"execution_id": x.id, "engine": live.engine.name})
        return False
    return True


def build_result(
    live: Live, end: Exit, intent: Intent | None, outputs: list[Output], problem: str, why: Failure | None = None
) -> ExecutionResult:
    """The result of an execution, from what the engine says and why it was stopped, if it was.

    `why` it did not start, where that is known better than by the engine's word.
    """
    status, reason, message = _verdict(live, end, intent)
    why = why or Failure(kind="StartFailed", message=end.error, errno=end.errno)
    if problem and status is ExecutionStatus.SUCCESS:
        status, reason, message = ExecutionStatus.FAILED, "outputs_failed", problem
    elif problem:
        message = f"{message}; {problem}" if message else problem
    return ExecutionResult(
        execution_id=live.x.id,
        status=status,
        reason=reason,
        exit_code=end.code,
        error_msg=message,
        killed=end.killed or reason == "oom_killed",
        signal=end.signal,
        started_at=end.started_at,
        finished_at=end.finished_at,
        usage=msgspec.structs.replace(end.usage, oom_kills=end.oom_kills),
        outputs=outputs,
        failure=why if reason == "start_failed" else None,
    )


def _verdict(live: Live, end: Exit, intent: Intent | None) -> tuple[ExecutionStatus, Reason, str]:
    timeout, failed = live.x.request.timeout, ExecutionStatus.FAILED
    cause = _cause(live, end, intent)
    if cause == "cancelled":
        return ExecutionStatus.CANCELLED, "cancelled", end.lost or "cancelled"
    if end.error:
        return failed, "start_failed", end.error
    if cause == "timed_out":
        late = f"ran longer than its timeout of {timeout:g} s" if timeout else "timed out"
        return failed, "timed_out", f"{late}; {end.lost}" if end.lost else late
    if end.lost is not None:
        return failed, "engine_lost", end.lost
    if end.oom_kills and end.code != 0:
        limit = live.x.request.resources.memory
        return failed, "oom_killed", f"out of memory: the limit is {limit if limit else 'the default'}"
    if end.signal is not None:
        return failed, "signaled", f"ended by signal {end.signal}"
    if end.code in (0, None):
        return ExecutionStatus.SUCCESS, "exited", ""
    return failed, "exited", f"exited with code {end.code}"


def _cause(live: Live, end: Exit, intent: Intent | None) -> str | None:
    """The first cause that was committed, unless the job had ended before it; without one, what the engine says."""
    if end.stopped_by == "deadline" and not _earlier(live, end, intent):
        return "timed_out"
    if intent is None:
        return None
    by_itself = end.stopped_by is None and end.started_at is not None
    ended_before = by_itself and (not live.engine.shares_clock or _before(end.finished_at, intent))
    return None if ended_before else intent.cause


def _earlier(live: Live, end: Exit, intent: Intent | None) -> bool:
    timeout = live.x.request.timeout
    if intent is None or timeout is None or end.started_at is None or not live.engine.shares_clock:
        return False
    return _before_time(intent, end.started_at + timedelta(seconds=timeout))


def _before(stamp: datetime, intent: Intent) -> bool:
    committed = moment(intent.time)
    return committed is not None and stamp < committed


def _before_time(intent: Intent, stamp: datetime) -> bool:
    committed = moment(intent.time)
    return committed is not None and committed < stamp


async def _collect(live: Live, end: Exit) -> tuple[list[Output], str]:
    if live.handle is None:
        return [], ""
    try:
        with traced(live, "collect"):
            return await live.engine.collect(live.x, live.handle, end), ""
    except ExecutorError as error:
        _log.warning("outputs: %s", error, extra={"execution_id": live.x.id, "engine": live.engine.name})
        return [], str(error)


def _collects(request: ExecutionRequest) -> bool:
    """Whether there is something to bring home, or a place of the host's that the job could write to."""
    writable = any(volume.type == "bind" and volume.read_only is False for volume in request.inputs)
    return bool(request.outputs) or request.results_dir is not None or writable


async def _mine(core: Core, token: str) -> bool:
    row = await core.journal.by_token(token)
    return row is not None and row.phase == "ended" and row.owner == core.owner


async def with_output(core: Core, result: ExecutionResult, token: str) -> ExecutionResult:
    """The result with the last bytes of both streams, read from the log."""
    return _joined(result, await _tails(core, token))


_Tails = tuple[tuple[bytes, bool], tuple[bytes, bool]]


async def _tails(core: Core, token: str) -> _Tails:
    limit = int(core.settings.result_output)
    folder = core.journal.folder(token)
    return await core.in_thread(lambda: (read_tail(folder, "stdout", limit), read_tail(folder, "stderr", limit)))


def _joined(result: ExecutionResult, tails: _Tails) -> ExecutionResult:
    (stdout, cut), (stderr, cut_too) = tails
    return msgspec.structs.replace(result, stdout=stdout, stderr=stderr, stdout_truncated=cut, stderr_truncated=cut_too)


async def load_result(core: Core, row: Row) -> ExecutionResult:
    """The recorded result of a finished execution. Raises `ResultExpired`."""
    if row.result is None or row.expired or (row.request.persist_logs == 0 and row.delivered_at is not None):
        raise ResultExpired(
            f"the result of {row.id} is gone: it was kept for its time",
            mend="Raise persist_logs, or read it sooner",
            execution_id=row.id,
        )
    return await with_output(core, row.result, row.token)
