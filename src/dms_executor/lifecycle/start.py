"""From a request to a running job: validate, claim, prepare, create, let go.

On disk, after each step: nothing; the row `accepted`; the folder with the request; what the engine prepared; the row
`created` with the handle; the running job; the row `running`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial

import msgspec

from .. import faults
from ..engine import Engine, Report
from ..errors import (
    EngineUnreachable,
    ExecutionCancelled,
    ExecutorClosed,
    ExecutorError,
    NotSupported,
    StartFailed,
    StateError,
)
from ..journal import files
from ..types import ExecutionRequest, ExecutionStatus, Progress, validated
from .core import Core
from .deadline import leave_keeper
from .finish import not_started
from .follow import see_through
from .live import Live
from .stop import give_up, stop_running
from .trace import traced

__all__ = ["start"]

_log = logging.getLogger(__name__)


async def start(core: Core, request: ExecutionRequest, progress: Report | None) -> Live:
    """Begins an execution; returns once its job runs. Cancelling the caller cancels the execution."""
    request = validated(request, ExecutionRequest)
    engine = await core.engine_for(request)
    request = _addressed(request, engine.name)
    await engine.validate(request)
    await _check_powers(engine, request)
    if core.closing.is_set():
        raise ExecutorClosed("the executor was closed", execution_id=request.execution_id)
    live = Live(core.execution(request), engine)
    bringing_up = core.tasks.spawn(_bring_up(core, live, progress or _unseen), f"start {live.x.id}")
    try:
        await asyncio.shield(bringing_up)
    except asyncio.CancelledError:
        if bringing_up.done() and bringing_up.cancelled():
            raise ExecutorClosed("the executor was closed", execution_id=live.x.id) from None
        await give_up(core, live)
        raise
    return live


async def _bring_up(core: Core, live: Live, report: Report) -> None:
    x, engine = live.x, live.engine
    # From here on the live entry is what a cancel in this process finds, also while the claim is under way.
    core.live[x.token] = live
    try:
        x = live.x = await core.journal.claim(x, engine.name, await core.capacity(engine, x.request))
    except BaseException as error:
        core.live.pop(x.token, None)
        live.done.set()
        live.conclude(None, error if isinstance(error, ExecutorError) else None)
        raise
    faults.point("request_written")
    watching = core.tasks.spawn(_obey(core, live), f"obey {x.id}")
    try:
        await _create(core, live, report)
        await _let_go(core, live)
    except _NotKnownError as error:
        await _left_open(core, live, error.why)
        raise error.why from error
    except ExecutorError as error:
        await not_started(core, live, error)
        raise live.failure or error from error
    except Exception as error:
        failure = StartFailed(f"engine {engine.name} failed: {error!r}", mend="This is a defect: please report it")
        failure.execution_id = x.id
        _log.exception("start failed", extra={"execution_id": x.id, "engine": engine.name})
        await not_started(core, live, failure)
        raise failure from error
    finally:
        watching.cancel()
    if live.status is ExecutionStatus.RUNNING:
        core.tasks.spawn(see_through(core, live), f"watch {x.id}")


async def _create(core: Core, live: Live, report: Report) -> None:
    """accepted -> created: everything but the job's first instruction."""
    x, engine = live.x, live.engine
    async with AsyncExitStack() as turn:
        await _prepare(core, live, report, turn)
        faults.point("prepared")
        with traced(live, "create"):
            live.handle = await engine.create(x, live.prepared)
    faults.point("created")
    live.intent = await core.journal.created(x.token, live.prepared, live.handle) or live.intent
    faults.point("created_committed")
    _unless_stopped(live)


async def _prepare(core: Core, live: Live, report: Report, turn: AsyncExitStack) -> None:
    """What may be aborted: the preparation, and the wait for this creation's turn.

    A slow pull holds no turn, so that it keeps no other start from its own.
    """
    x, limit = live.x, live.x.request.prepare_timeout or core.settings.prepare_timeout
    _unless_stopped(live)  # an abort while the claim was being committed found no preparation to stop
    try:
        async with live.preparing(limit):
            with traced(live, "prepare"):
                live.prepared = await live.engine.prepare(x, partial(_reported, core, live, report))
            await turn.enter_async_context(core.creations)
    except TimeoutError as error:
        if live.intent is None:
            raise StartFailed(
                f"the preparation took longer than {limit:g} s", mend="Raise prepare_timeout", execution_id=x.id
            ) from error
    finally:
        live.prepared_now()
    _unless_stopped(live)


async def _let_go(core: Core, live: Live) -> None:
    """created -> running."""
    x, engine, handle = live.x, live.engine, live.handle
    if handle is None:
        raise StartFailed("the engine gave no handle", execution_id=x.id)
    await leave_keeper(core, live)
    with traced(live, "start"):
        try:
            started_at = await engine.start(x, handle)
        except EngineUnreachable as error:
            raise _NotKnownError(error) from error
    faults.point("started")
    intent = await core.journal.running(x.token, started_at)
    faults.point("running_committed")
    live.status = ExecutionStatus.RUNNING
    _log.info("running", extra={"execution_id": x.id, "engine": engine.name})
    if x.request.secret_environment:
        await core.in_thread((x.folder / files.SECRETS).unlink, True)
    if intent or live.intent:
        await stop_running(core, live, intent or live.intent)


class _NotKnownError(Exception):
    """`why` nobody can tell whether a job was let go."""

    def __init__(self, why: EngineUnreachable) -> None:
        super().__init__(str(why))
        self.why = why


async def _left_open(core: Core, live: Live, error: EngineUnreachable) -> None:
    """Recovery finds out whether it runs once its engine answers: it is adopted then, or withdrawn."""
    x = live.x
    error.execution_id = x.id
    _log.warning("start: %s", error, extra={"execution_id": x.id, "engine": live.engine.name})
    try:
        if live.intent is not None:
            await core.journal.intend(x.token, live.intent)
        await core.in_thread(files.sweep, x.folder)
        await core.journal.release([x.token])
    except StateError as worse:
        _log.warning("%s", worse, extra={"execution_id": x.id, "engine": live.engine.name})
    core.live.pop(x.token, None)
    live.done.set()
    live.conclude(None, error)
    core.settle_soon()


async def _obey(core: Core, live: Live) -> None:
    """A cancel that another process commits while this one prepares stops the preparation."""
    await asyncio.sleep(_QUICK)  # most preparations are over by then, and need no watch on the other processes
    token = live.x.token
    core.preparing[token] = live
    try:
        if core.intents is None or core.intents.done():
            core.intents = core.tasks.spawn(_read_intents(core), "intents")
        else:
            core.changes.committed()  # it looks once more, for this one too
        await asyncio.Event().wait()
    finally:
        del core.preparing[token]
        if not core.preparing and core.intents is not None:
            core.intents.cancel()
            core.intents = None


async def _read_intents(core: Core) -> None:
    """One look for all that prepare: if each looked after every commit, many in flight would do little else."""
    while True:
        changed = core.changes.next()
        for token, intent in (await core.journal.intents()).items():
            if live := core.preparing.get(token):
                live.abort(intent)
        await changed


_QUICK = 0.03


def _addressed(request: ExecutionRequest, engine: str) -> ExecutionRequest:
    """The request with the engine that was chosen for it."""
    if request.engine_spec.type == engine:
        return request
    return msgspec.structs.replace(request, engine_spec=msgspec.structs.replace(request.engine_spec, type=engine))


async def _check_powers(engine: Engine, request: ExecutionRequest) -> None:
    """What an engine may know nothing of, since requests have it for others. Raises `NotSupported`."""
    wanted = {
        "devices": ("$.devices", request.devices),
        "gpus": ("$.resources.gpus", request.resources.gpus),
        "attach": ("$.stdin_open", request.stdin_open),
        "tty": ("$.tty", request.tty),
    }
    named = {power: field for power, (field, value) in wanted.items() if value}
    powers = (await engine.probe()).capabilities if named else frozenset()
    for power, field in named.items():
        if power not in powers:
            raise NotSupported(
                f"engine {engine.name} has no {power} here",
                engine=engine.name,
                what=field,
                mend=f"Leave {field[2:]} out",
            )


def _unless_stopped(live: Live) -> None:
    if live.intent is not None:
        raise ExecutionCancelled(f"execution {live.x.id} was cancelled before its job ran", execution_id=live.x.id)


def _reported(core: Core, live: Live, report: Report, progress: Progress) -> None:
    """What keeps it waiting is everybody's to see, not only of who started it."""
    if progress.waits:
        core.tasks.spawn(core.journal.waiting(live.x.token, progress.what), f"waiting {live.x.id}")
    report(progress)


def _unseen(_progress: Progress) -> None:
    """Nobody asked for the progress."""
