"""From a running job to its end: watch it, pull its log where the engine keeps none, hold its deadline likewise."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from .. import faults
from ..engine import Exit
from ..errors import EngineUnreachable, ExecutorClosed, ExecutorError
from ..journal import Intent, Row
from ..journal.clock import moment
from ..types import ExecutionResult
from .core import Core
from .finish import finish, load_result
from .live import Live
from .pull import pull

__all__ = ["adopt", "see_through", "settled", "wait"]

_log = logging.getLogger(__name__)
_BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


async def see_through(core: Core, live: Live) -> None:
    """Watches one execution to its end, and ends it in the journal; whoever waits for `live` gets the outcome."""
    x, engine = live.x, live.engine
    helpers = []
    if not engine.keeps_log:
        helpers.append(core.tasks.spawn(pull(core, live), f"log {x.id}"))
    if not engine.keeps_deadline and x.request.timeout is not None:
        helpers.append(core.tasks.spawn(_hold_deadline(core, live), f"deadline {x.id}"))
    try:
        end = await _watch(live)
        faults.point("watched")
        live.ended = True
        if not engine.keeps_log:
            await helpers[0]
        await finish(core, live, end)
        if not live.finished.is_set():
            row = await settled(core, x.token)
            live.conclude(await load_result(core, row) if row is not None else await core.journal.kept_result(x.token))
    except ExecutorError as error:
        _log.warning("%s", error, extra={"execution_id": x.id, "engine": engine.name})
        if not live.finished.is_set():
            live.conclude(None, error)
    except Exception as error:
        # An engine's own defect must not leave every waiter waiting.
        _log.exception("watching failed", extra={"execution_id": x.id, "engine": engine.name})
        if not live.finished.is_set():
            failure = f"engine {engine.name} failed: {error!r}"
            live.conclude(None, ExecutorError(failure, mend="This is a defect: please report it", execution_id=x.id))
        raise
    finally:
        core.live.pop(x.token, None)
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
    token = row.token
    finished = await settled(core, token)
    if finished is None:
        kept = await core.journal.kept_result(token)
        if kept is not None:
            return kept
        row = await core.row(execution_id)
        finished = row
    result = await load_result(core, finished)
    await _delivered(core, finished.token, finished.request.persist_logs)
    return result


async def outcome(core: Core, live: Live) -> ExecutionResult:
    """What an execution that lives here comes to. Raises what its start raised, `ExecutorClosed`."""
    await core.unless_closed(live.finished.wait())
    if live.result is None:
        raise live.failure or ExecutorClosed("the executor was closed", execution_id=live.x.id)
    await _delivered(core, live.x.token, live.x.request.persist_logs)
    return live.result


async def settled(core: Core, token: str) -> Row | None:
    """The row once it has its terminal status, whoever brings it about; None once it is removed."""
    while True:
        changed = core.changes.next()
        row = await core.journal.by_token(token)
        if row is None or row.phase == "removing" or row.terminal:
            return row if row is not None and row.phase != "removing" else None
        if row.owner is not None and row.owner != core.owner:
            await core.mind_owner(row.owner)
        live = await _followed(core, row)
        if live is not None:
            # This process watches it, too: the end is recorded once, whoever sees it first.
            await core.unless_closed(live.finished.wait())
            if live.result is None and live.failure is not None:
                raise live.failure
            continue
        await core.unless_closed(changed)


async def _followed(core: Core, row: Row) -> Live | None:
    if row.token in core.live:
        live = core.live[row.token]
        return None if live.ended and not live.finished.is_set() else live
    if row.phase == "running":
        return await adopt(core, row)
    return None


async def _delivered(core: Core, token: str, persist_logs: float | None) -> None:
    if persist_logs == 0:
        await core.journal.delivered(token)


async def _watch(live: Live) -> Exit:
    if live.handle is None:
        return Exit(finished_at=datetime.now(UTC), lost="no handle was recorded")
    tries = 0
    while True:
        try:
            end = await live.engine.watch(live.x, live.handle)
        except EngineUnreachable as error:
            live.stale = True
            pause = _BACKOFF[min(tries, len(_BACKOFF) - 1)]
            tries += 1
            _log.warning("%s; asked again in %g s", error, pause, extra={"execution_id": live.x.id})
            await asyncio.sleep(pause)
        else:
            live.stale = False
            return end


async def _hold_deadline(core: Core, live: Live) -> None:
    """The timeout of an engine that keeps none: it counts from `running`, paused time included."""
    row = await core.journal.by_token(live.x.token)
    started = moment(row.started_at) if row is not None else None
    limit = live.x.request.timeout
    if row is None or started is None or limit is None or live.handle is None:
        return
    await asyncio.sleep(max(0.0, limit - (datetime.now(UTC) - started).total_seconds()))
    grace = core.settings.grace
    wanted = Intent(cause="timed_out", signal=live.prepared.stop_signal, grace=grace, time=time.time_ns())
    standing = await core.journal.intend(live.x.token, wanted)
    if standing is not None:
        live.intent = standing
        await live.engine.stop(live.x, live.handle, wanted.signal, grace)
        await core.journal.stop_in_hand(live.x.token)
