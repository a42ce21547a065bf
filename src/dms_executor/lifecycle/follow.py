"""From a running job to its end: watch it, pull its log where the engine keeps none, hold its deadline likewise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from datetime import UTC, datetime

from .. import faults
from ..engine import Exit
from ..errors import (
    EngineUnreachable,
    ExecutionAlreadyFinished,
    ExecutionNotFound,
    ExecutorClosed,
    ExecutorError,
)
from ..journal import Row
from ..logs.retention import drop_log
from ..types import TERMINAL, ExecutionResult, ExecutionStatus
from .core import Core
from .deadline import BACKOFF, dismiss_keeper, hold_deadline
from .finish import finish, load_result, with_output
from .live import Live
from .pull import pull

__all__ = ["adopt", "see_through", "settled", "wait", "wait_for_status"]

_log = logging.getLogger(__name__)


async def see_through(core: Core, live: Live) -> None:
    """Watches one execution to its end, and ends it in the journal; whoever waits for `live` gets the outcome."""
    x, engine = live.x, live.engine
    helpers = []
    if not engine.keeps_log:
        helpers.append(core.tasks.spawn(pull(core, live), f"log {x.id}"))
    if not engine.keeps_deadline and x.request.timeout is not None:
        helpers.append(core.tasks.spawn(hold_deadline(core, live), f"deadline {x.id}"))
    try:
        end = await _watch(live)
        faults.point("watched")
        live.ended = True
        if not engine.keeps_log:
            await helpers[0]
        await finish(core, live, end)
        await dismiss_keeper(core, live)
        if not live.finished.is_set():
            live.conclude(await _recorded(core, x.id, x.token, await settled(core, x.token)))
    except ExecutorError as error:
        _log.warning("%s", error, extra={"execution_id": x.id, "engine": engine.name})
        if not live.finished.is_set():
            live.conclude(None, error)
            core.changes.committed()
        else:
            core.settle_soon()  # it is recorded, and the engine still has something of it
    except Exception as error:
        # An engine's own defect must not leave every waiter waiting.
        _log.exception("watching failed", extra={"execution_id": x.id, "engine": engine.name})
        if not live.finished.is_set():
            failure = f"engine {engine.name} failed: {error!r}"
            live.conclude(None, ExecutorError(failure, mend="This is a defect: please report it", execution_id=x.id))
            core.changes.committed()
        raise
    finally:
        if core.live.get(x.token) is live:
            del core.live[x.token]
        live.done.set()
        for helper in helpers:
            helper.cancel()


async def adopt(core: Core, row: Row) -> Live:
    """Watches an execution that another caller started."""
    if row.token in core.live:
        return core.live[row.token]
    engine = await core.engine(row.engine)
    if row.token in core.live:
        return core.live[row.token]
    live = Live(core.known(row.request, row.token), engine, row.status)
    live.handle, live.intent = row.handle, row.intent
    live.prepared = row.prepared or live.prepared
    core.live[row.token] = live
    core.tasks.spawn(see_through(core, live), f"watch {row.id}")
    return live


async def wait(core: Core, execution_id: str) -> ExecutionResult:
    """The result of an execution, once there is one."""
    row = await core.row(execution_id)
    # One that has ended may still be cleaned up here: the record decides, also whether its result has expired.
    live = None if row.terminal else await _followed(core, row)
    if live is not None:
        return await outcome(core, live)
    if row.terminal and row.expired:
        result = await load_result(core, row)  # says so
    else:
        # One that expires or goes while it is read counts as there: it was when it was asked for.
        settling = row if row.terminal else await settled(core, row.token)
        result = await _recorded(core, row.id, row.token, settling)
    return await _delivered(core, row, result)


async def wait_for_status(core: Core, execution_id: str, wanted: Set[ExecutionStatus]) -> ExecutionStatus:
    """The first of `wanted` that an execution reaches, however short it stays there."""
    position = await core.journal.last_event()
    found = await core.row(execution_id)
    row: Row | None = found
    token, reached = found.token, [found.status]
    while True:
        for status in reached:
            if status in wanted:
                return status
        if reached and reached[-1] in TERMINAL:
            raise ExecutionAlreadyFinished(
                f"execution {execution_id} is {reached[-1]}", status=reached[-1], execution_id=execution_id
            )
        if row is None:
            raise _removed(execution_id)
        live = await _attended(core, row)
        changed = core.changes.next()
        reached = await core.journal.statuses(token, position)
        row = await core.journal.by_token(token)
        if not reached and row is not None:
            await core.unless_closed(changed)
            if live is not None and live.failure is not None and live.result is None:
                raise live.failure


async def outcome(core: Core, live: Live) -> ExecutionResult:
    """What an execution that lives here comes to. Raises what its start raised, `ExecutorClosed`."""
    await core.unless_closed(live.finished.wait())
    if live.result is None:
        raise live.failure or ExecutorClosed("the executor was closed", execution_id=live.x.id)
    return await _delivered(core, live, live.result)


async def settled(core: Core, token: str) -> Row | None:
    """The row once it has its terminal status, whoever brings it about; None once it is removed."""
    while True:
        changed = core.changes.next()
        row = await core.journal.by_token(token)
        if row is None or row.phase == "removing" or row.terminal:
            return row if row is not None and row.phase != "removing" else None
        live = await _attended(core, row)
        if live is not None:
            # This process watches it, too: the end is recorded once, whoever sees it first.
            await core.unless_closed(live.finished.wait())
            if live.result is None and live.failure is not None:
                raise live.failure
            continue
        await core.unless_closed(changed)


async def _recorded(core: Core, execution_id: str, token: str, row: Row | None) -> ExecutionResult:
    """What another process recorded, for those who waited meanwhile: it is theirs even if it has been delivered."""
    if row is not None and row.result is not None and not row.expired:
        result = await with_output(core, row.result, token)
        row = await core.journal.by_token(token)
        if row is not None and not row.expired and row.phase != "removing":
            return result  # its log was there all the while
    kept = await core.journal.kept_result(token)
    if kept is not None:
        return kept
    if row is None or row.phase == "removing":
        raise _removed(execution_id)
    return await load_result(core, row)


def _removed(execution_id: str) -> ExecutionNotFound:
    return ExecutionNotFound(f"execution {execution_id} was removed meanwhile", execution_id=execution_id)


async def _attended(core: Core, row: Row) -> Live | None:
    """Sees to it that somebody brings it to its end, and that we hear of it; gives what follows it here, if any."""
    if row.owner is not None and row.owner != core.owner:
        await core.mind_owner(row.owner)
    elif row.token not in core.live and row.phase != "running":
        core.settle_soon()
    return await _followed(core, row)


async def _followed(core: Core, row: Row) -> Live | None:
    if row.token in core.live:
        live = core.live[row.token]
        return None if live.ended and not live.finished.is_set() else live
    if row.phase == "running":
        return await adopt(core, row)
    return None


async def _delivered(core: Core, row: Row | Live, result: ExecutionResult) -> ExecutionResult:
    """Hands a result over; with `persist_logs=0` the log goes with it."""
    token, request = (row.x.token, row.x.request) if isinstance(row, Live) else (row.token, row.request)
    if request.persist_logs == 0 and await core.journal.delivered(token, result):
        await core.in_thread(drop_log, core.journal.folder(token))
    return result


async def _watch(live: Live) -> Exit:
    if live.handle is None:
        return Exit(finished_at=datetime.now(UTC), lost="no handle was recorded")
    tries = 0
    while True:
        try:
            if live.stale:
                await live.engine.survey_of([live.x.token])
                live.stale = False  # it answers again
            end = await live.engine.watch(live.x, live.handle)
        except EngineUnreachable as error:
            live.stale = True
            pause = BACKOFF[min(tries, len(BACKOFF) - 1)]
            tries += 1
            _log.warning("%s; asked again in %g s", error, pause, extra={"execution_id": live.x.id})
            await asyncio.sleep(pause)
        else:
            return end
