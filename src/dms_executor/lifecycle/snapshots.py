"""Saving a running job to disk under a name, and going on with it later.

On disk, after each step: the row `running` with the name; the job saved, nothing of it runs; the row `paused`. And
back: the job runs; the row `running` without a name. What a caller that dies in between leaves, and what is there after
an error, is told by what really exists.
"""

from __future__ import annotations

import logging

from .. import faults
from ..engine import Engine, Handle, Observed, Snapshots
from ..errors import ExecutionNotFound, ExecutionNotRunning, ExecutorError, NotSupported
from ..journal import Row
from ..types import ExecutionRequest, ExecutionStatus, check_id
from .core import Core
from .follow import adopt
from .live import Live
from .stop import running

__all__ = ["restore", "snapshot", "tell_paused"]

_log = logging.getLogger(__name__)


async def snapshot(core: Core, execution_id: str, name: str) -> None:
    """Saves it. Once begun it is completed, even if its caller is cancelled."""
    check_id(name, "$.name")
    row = await core.row(execution_id)
    power = _power(await core.engine(row.engine), execution_id)
    live = await running(core, execution_id)
    await core.tasks.complete(_snapshot(core, live, power, name), f"snapshot {execution_id}")


async def _snapshot(core: Core, live: Live, power: Snapshots, name: str) -> None:
    handle = await core.journal.saving(live.x.token, name)
    if handle is None:
        raise ExecutionNotRunning(f"execution {live.x.id} has ended", execution_id=live.x.id)
    faults.point("saving_committed")
    await _see_saved(core, live, power, handle, name)


async def _see_begun(core: Core, row: Row) -> None:
    """Commits what comes of a save that its caller, who is gone, had in hand."""
    live = await adopt(core, row)
    if not isinstance(live.engine, Snapshots) or row.handle is None or row.handle.saved is None:
        return
    try:
        await _see_saved(core, live, live.engine, row.handle, row.handle.saved)
    except ExecutorError as error:
        _log.warning("it is not saved: %s", error, extra={"execution_id": row.id})


async def _see_saved(core: Core, live: Live, power: Snapshots, handle: Handle, name: str) -> None:
    try:
        await power.snapshot(live.x, live.prepared, handle)
    except Exception as error:
        if isinstance(error, ExecutorError):
            error.execution_id = live.x.id
        if not await _is_saved(core, live, name):
            raise
        _log.warning("it is saved: %s", error, extra={"execution_id": live.x.id})
    faults.point("saved")
    await core.journal.saved(live.x.token, name)
    faults.point("saved_committed")


async def _is_saved(core: Core, live: Live, name: str) -> bool:
    """Whatever went wrong: by what there is. Where nobody knows, or a full disk takes no word of it, the name stays,
    and recovery, or another save under it, asks again.
    """
    try:
        seen = (await live.engine.survey_of([live.x.token])).get(live.x.token)
        if seen is not None and seen.phase in ("running", "paused"):
            status = ExecutionStatus.PAUSED if seen.phase == "paused" else ExecutionStatus.RUNNING
            await core.journal.unsaved(live.x.token, name, status)
    except ExecutorError as error:
        _log.warning("%s", error, extra={"execution_id": live.x.id})
        return False
    return seen is not None and seen.phase == "suspended"


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
    await core.tasks.complete(_restore(core, live, _power(live.engine, execution_id), name), f"restore {execution_id}")


async def _restore(core: Core, live: Live, power: Snapshots, name: str) -> None:
    if live.handle is None:
        raise ExecutionNotRunning("no handle was recorded", execution_id=live.x.id)
    try:
        handle = await power.restore(live.x, live.prepared, live.handle)
    except ExecutorError as error:
        error.execution_id = live.x.id
        raise
    faults.point("restored")
    live.handle = handle
    await core.journal.unsaved(live.x.token, name, ExecutionStatus.RUNNING, handle)
    faults.point("restored_committed")


def _power(engine: Engine, execution_id: str) -> Snapshots:
    if isinstance(engine, Snapshots):
        return engine
    raise NotSupported(
        f"engine {engine.name} cannot save a job", engine=engine.name, what="snapshot", execution_id=execution_id
    )


async def tell_paused(core: Core, row: Row, seen: Observed, follow: bool) -> None:
    """Commits what is found of one whose caller died between a pause, resume, snapshot or restore, and its commit.

    `follow`: it is watched here, and so is the end of a save that is in hand.
    """
    name = row.handle.saved if row.handle is not None else None
    if seen.phase == "suspending" and name is not None and follow:
        core.tasks.spawn(_see_begun(core, row), f"save {row.id}")
    elif seen.phase == "suspended":
        await _tell_saved(core, row, name)
    elif seen.phase in ("running", "paused"):
        status = ExecutionStatus.RUNNING if seen.phase == "running" else ExecutionStatus.PAUSED
        if name is not None:
            await core.journal.unsaved(row.token, name, status)
        elif status is not row.status:
            await core.journal.paused(row.token, status)


async def _tell_saved(core: Core, row: Row, name: str | None) -> None:
    """One without a name, whatever took that, has its id for one, so that it can be restored."""
    if name is None:
        taken = await core.journal.saved_as(row.id)
        name = row.id if taken is None or taken.token == row.token else f"{row.id}-{row.token[:8]}"
        if await core.journal.saving(row.token, name) is None:
            return
    await core.journal.saved(row.token, name)
