"""Ending an execution early, and the other things that are asked of a job that runs: signals, pause, resume."""

from __future__ import annotations

import asyncio
import logging
import time

from .. import faults
from ..engine import Measures, Pauses
from ..errors import (
    EngineUnreachable,
    ExecutionAlreadyFinished,
    ExecutionCancelled,
    ExecutionNotFound,
    ExecutionNotRunning,
    ExecutorError,
    NotSupported,
)
from ..journal import Intent, Row
from ..types import ExecutionStatus, Stats
from .core import Core
from .follow import adopt, settled
from .insisting import carry_out
from .live import Live

__all__ = ["cancel", "give_up", "pause", "resume", "running", "send_signal", "stats", "stop_running"]

_log = logging.getLogger(__name__)


async def cancel(core: Core, execution_id: str, signum: int | None, grace: float | None) -> None:
    """Stops an execution in any phase; returns when its job is gone. A cancelled call completes all the same.

    Raises `EngineUnreachable` where its engine could not be asked yet, which is done again then.
    """
    row = await core.row(execution_id)
    if row.terminal:
        raise ExecutionAlreadyFinished(
            f"execution {execution_id} has finished ({row.status})", status=row.status, execution_id=execution_id
        )
    await core.tasks.complete(_cancel(core, row, signum, grace), f"cancel {execution_id}")


async def _cancel(core: Core, row: Row, signum: int | None, grace: float | None) -> None:
    wanted = Intent(
        cause="cancelled",
        signal=signum or (row.prepared.stop_signal if row.prepared is not None else 15),
        grace=core.settings.grace if grace is None else grace,
        time=time.time_ns(),
    )
    standing = await core.journal.intend(row.token, wanted)
    faults.point("intent_committed")
    if standing is None:
        raise ExecutionAlreadyFinished(f"execution {row.id} has finished", execution_id=row.id)
    live = core.live.get(row.token)
    if live is not None and live.status is ExecutionStatus.PENDING:
        live.abort(standing)
        await core.journal.stop_in_hand(row.token)
    else:
        await carry_out(core, row.token, wanted)
    faults.point("stop_in_hand")
    await settled(core, row.token)


async def stop_running(core: Core, live: Live, intent: Intent | None) -> None:
    """Carries out what was asked for before the job ran; committed, since the record decides the status."""
    if intent is not None:
        live.intent = await core.journal.intend(live.x.token, intent) or intent
        try:
            await carry_out(core, live.x.token, live.intent)
        except EngineUnreachable as error:  # the job runs: this is no failure of its start
            _log.warning("%s", error, extra={"execution_id": live.x.id})


async def give_up(core: Core, live: Live) -> None:
    """The task that awaits the execution was cancelled, and the execution is with it.

    A second cancellation returns at once; what was begun is finished by this executor, or by whoever recovers.
    """
    now = time.time_ns()
    intent = Intent(cause="cancelled", signal=live.prepared.stop_signal, grace=core.settings.grace, time=now)
    if live.status is ExecutionStatus.PENDING:
        live.abort(intent)
        ending = core.tasks.spawn(_concluded(live), f"give up {live.x.id}")
    else:
        ending = core.tasks.spawn(cancel(core, live.x.id, None, None), f"cancel {live.x.id}")
    try:
        await asyncio.shield(ending)
    except (asyncio.CancelledError, ExecutionAlreadyFinished, ExecutionNotFound, ExecutionCancelled):
        return
    except ExecutorError as error:
        _log.warning("cancel with the caller: %s", error, extra={"execution_id": live.x.id})


async def _concluded(live: Live) -> None:
    await live.finished.wait()


async def send_signal(core: Core, execution_id: str, signum: int) -> None:
    """Sends a signal to the job's main process."""
    live = await running(core, execution_id)
    if live.handle is not None:
        await live.engine.signal(live.x, live.handle, signum)


async def pause(core: Core, execution_id: str) -> None:
    """Freezes the job. Idempotent while it is alive."""
    live = await running(core, execution_id)
    power = _pauses(live)
    if live.handle is not None:
        await power.pause(live.x, live.handle)
    await core.journal.paused(live.x.token, ExecutionStatus.PAUSED)


async def resume(core: Core, execution_id: str) -> None:
    """Thaws the job. Idempotent while it is alive."""
    live = await running(core, execution_id)
    power = _pauses(live)
    if live.handle is not None:
        await power.resume(live.x, live.handle)
    await core.journal.paused(live.x.token, ExecutionStatus.RUNNING)


async def stats(core: Core, execution_id: str) -> Stats:
    """What the job uses now."""
    live = await running(core, execution_id)
    if isinstance(live.engine, Measures) and live.handle is not None:
        return await live.engine.stats(live.x, live.handle)
    raise NotSupported(
        f"engine {live.engine.name} has no stats", engine=live.engine.name, what="stats", execution_id=execution_id
    )


async def running(core: Core, execution_id: str) -> Live:
    """One that runs or is paused, and is not saved to disk. Raises `ExecutionNotRunning`."""
    row = await core.row(execution_id)
    if row.phase != "running":
        raise ExecutionNotRunning(
            f"execution {execution_id} is {row.status}", status=row.status, execution_id=execution_id
        )
    if row.status is ExecutionStatus.PAUSED and row.handle is not None and row.handle.saved is not None:
        raise ExecutionNotRunning(
            f"execution {execution_id} is saved to disk as {row.handle.saved}",
            status=row.status,
            mend=f"`dms-executor restore {row.handle.saved}` lets it go on",
            execution_id=execution_id,
        )
    return await adopt(core, row)


def _pauses(live: Live) -> Pauses:
    if isinstance(live.engine, Pauses):
        return live.engine
    raise NotSupported(
        f"engine {live.engine.name} cannot pause", engine=live.engine.name, what="pause", execution_id=live.x.id
    )
