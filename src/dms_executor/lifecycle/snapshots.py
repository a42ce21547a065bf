"""Saving a running job to disk under a name, and going on with it later.

On disk, after each step: the row with the name; the job saved, nothing of it runs; the row `paused`. And back: the job
runs; the row `running` without a name. What a caller that dies in between leaves, recovery tells by what really exists.
"""

from __future__ import annotations

from .. import faults
from ..engine import Engine, Snapshots
from ..errors import EngineUnreachable, ExecutionNotFound, ExecutionNotRunning, ExecutorError, NotSupported
from ..types import ExecutionRequest, ExecutionStatus, check_id
from .core import Core
from .follow import adopt
from .live import Live
from .stop import running

__all__ = ["restore", "snapshot"]


async def snapshot(core: Core, execution_id: str, name: str) -> None:
    """Saves it. Once begun it is completed, even if its caller is cancelled."""
    check_id(name, "$.name")
    row = await core.row(execution_id)
    power = _power(await core.engine(row.engine), execution_id)
    live = await running(core, execution_id)
    await core.tasks.complete(_snapshot(core, live, power, name), f"snapshot {execution_id}")


async def _snapshot(core: Core, live: Live, power: Snapshots, name: str) -> None:
    token = live.x.token
    handle = await core.journal.saving(token, name)
    if handle is None:
        raise ExecutionNotRunning(f"execution {live.x.id} has ended", execution_id=live.x.id)
    faults.point("saving_committed")
    try:
        await power.snapshot(live.x, live.prepared, handle)
    except ExecutorError as error:
        error.execution_id = live.x.id
        if not isinstance(error, EngineUnreachable):  # then nobody knows; recovery asks what there is
            await core.journal.saved(token, handle, None)
        raise
    faults.point("saved")
    await core.journal.saved(token, handle, ExecutionStatus.PAUSED)
    faults.point("saved_committed")


async def restore(core: Core, name: str, execution_id: str, request: ExecutionRequest | None) -> None:
    """Goes on with what is saved under a name. Once begun it is completed, even if its caller is cancelled."""
    check_id(name, "$.name")
    check_id(execution_id)
    row = await core.journal.saved_as(name)
    if row is None:
        known = await core.row(execution_id)
        _power(await core.engine(known.engine), execution_id)
        raise ExecutionNotFound(
            f"nothing is saved as {name}", mend="`dms-executor inspect ID` says it", execution_id=execution_id
        )
    if row.id != execution_id or request is not None:
        raise NotSupported(
            f"{name} is execution {row.id}, which goes on as itself and as it is",
            engine=row.engine,
            what="restore",
            mend=f"Restore it as {row.id}, without a request",
            execution_id=execution_id,
        )
    live = await adopt(core, row)
    live.handle = row.handle or live.handle
    await core.tasks.complete(_restore(core, live, _power(live.engine, execution_id)), f"restore {execution_id}")


async def _restore(core: Core, live: Live, power: Snapshots) -> None:
    if live.handle is None:
        raise ExecutionNotRunning("no handle was recorded", execution_id=live.x.id)
    try:
        handle = await power.restore(live.x, live.prepared, live.handle)
    except ExecutorError as error:
        error.execution_id = live.x.id
        raise
    faults.point("restored")
    live.handle = handle
    await core.journal.saved(live.x.token, handle, ExecutionStatus.RUNNING)
    faults.point("restored_committed")


def _power(engine: Engine, execution_id: str) -> Snapshots:
    if isinstance(engine, Snapshots):
        return engine
    raise NotSupported(
        f"engine {engine.name} cannot save a job", engine=engine.name, what="snapshot", execution_id=execution_id
    )
