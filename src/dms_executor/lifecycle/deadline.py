"""Timeouts of engines that keep none: held by whoever watches, and by a keeper while no caller lives."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ..errors import EngineUnavailable, EngineUnreachable
from ..journal import Intent, files
from ..journal.clock import moment
from ..keeper_record import RECORD, KeeperRecord
from ..processes import boot_id
from ..types import decode, encode
from .core import Core
from .live import Live

if TYPE_CHECKING:
    from ..supervisor.keeper import Keeper

__all__ = ["BACKOFF", "dismiss_keeper", "hold_deadline", "leave_keeper"]

BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between two questions to an engine that does not answer."""

_SLACK = 0.5  # seconds in which a living caller does it itself
_log = logging.getLogger(__name__)


async def leave_keeper(core: Core, live: Live) -> None:
    """Leaves a process behind that enforces the timeout, before the job is let go."""
    limit = live.x.request.timeout
    if live.engine.keeps_deadline or limit is None:
        return
    from ..supervisor import keeper  # only engines of this kind need it

    record = KeeperRecord(state_dir=str(core.state_dir), token=live.x.token, settings=core.settings)
    await core.in_thread(_put, live, record, core.durable)
    command = [sys.executable, "-m", "dms_executor.keeper", str(live.x.folder)]
    live.keeper = await keeper.spawn(live.x.folder, limit + _SLACK, command, _environment())
    # Once more, for an adopter: it has to end the keeper with the execution.
    found = msgspec.structs.replace(record, pid=live.keeper.pid, start_time=live.keeper.start_time)
    await core.in_thread(_put, live, found, core.durable)


async def dismiss_keeper(core: Core, live: Live) -> None:
    """The execution has ended: its keeper, left by this process or an earlier one, has nothing to wait for."""
    if live.engine.keeps_deadline or live.x.request.timeout is None:
        return
    from ..supervisor import keeper

    kept, live.keeper = live.keeper, None
    kept = kept or await core.in_thread(_recorded_keeper, live)
    if kept is not None and kept.pid != os.getpid():
        await keeper.stop(kept)


async def hold_deadline(core: Core, live: Live) -> None:
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
    if standing is None:
        return
    live.intent = standing
    for pause in itertools.chain(BACKOFF, itertools.repeat(BACKOFF[-1])):
        try:
            await live.engine.stop(live.x, live.handle, wanted.signal, grace)
            break
        except (EngineUnavailable, EngineUnreachable) as error:
            # A deadline holds also where the engine is silent just when it has come.
            _log.warning("%s; asked again in %g s", error, pause, extra={"execution_id": live.x.id})
            await asyncio.sleep(pause)
    await core.journal.stop_in_hand(live.x.token)


def _put(live: Live, record: KeeperRecord, durable: bool) -> None:
    found = msgspec.structs.replace(record, boot=boot_id())
    files.put(live.x.folder, RECORD, encode(found), durable=durable)


def _recorded_keeper(live: Live) -> Keeper | None:
    from ..supervisor.keeper import Keeper

    raw = files.read(live.x.folder, RECORD)
    try:
        record = decode(raw, KeeperRecord) if raw is not None else None
    except msgspec.DecodeError as error:
        _log.warning("keeper.json is unreadable: %s", error, extra={"execution_id": live.x.id})
        return None
    if record is None or record.pid == 0 or record.boot != boot_id():
        return None
    return Keeper(pid=record.pid, start_time=record.start_time)


def _environment() -> dict[str, str]:
    """What Python needs to find this package again, and nothing else of the caller's."""
    names = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {"LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in names if name in os.environ}}
