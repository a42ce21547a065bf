"""What a keeper executes when its time has come: `python -m dms_executor.keeper FOLDER`.

For engines that keep no deadline (`Engine.keeps_deadline` false): `lifecycle.deadline` leaves a keeper behind with
each execution that has a timeout, asleep until then. Opening the state folder settles what a dead caller left; if the
execution still runs, watching it holds its deadline. The first cause that is committed stands, so that two that do it
at once do it once.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from .errors import ExecutorError
from .executor import Executor
from .journal import Row
from .keeper_record import RECORD, KeeperRecord
from .lifecycle import Core, adopt
from .lifecycle.follow import wait_for_status
from .types import ExecutionStatus, decode

__all__ = ["main"]

_PATIENCE = 60.0
"""Seconds beyond the grace that a keeper waits for an engine that does not answer."""


async def _keep(record: KeeperRecord) -> None:
    async with Executor.open(record.state_dir, settings=record.settings, _follow=False) as executor:
        core = executor._core  # the package's own: a keeper is a part of the lifecycle
        row = await core.journal.by_token(record.token)
        if row is not None and row.phase in ("accepted", "created"):
            row = await _running(core, row)
        if row is None or row.phase != "running":
            return
        live = await adopt(core, row)
        # All of the timeout may be left: it counts from `running`, and the keeper was there before.
        patience = (row.request.timeout or 0) + record.settings.grace + _PATIENCE
        try:
            await asyncio.wait_for(live.finished.wait(), patience)
        except TimeoutError:
            return  # the intent is committed: whoever reaches the engine first carries it out


async def _running(core: Core, row: Row) -> Row | None:
    """The row of one whose start takes longer than its timeout, once it runs; None where it never does."""
    try:
        await wait_for_status(core, row.id, {ExecutionStatus.RUNNING})
    except ExecutorError:
        return None
    return await core.journal.by_token(row.token)


def main() -> None:
    """Enforces the deadline of the execution whose folder the command line names."""
    try:
        data = (Path(sys.argv[1]) / RECORD).read_bytes()
    except FileNotFoundError:
        return  # removed meanwhile
    asyncio.run(_keep(decode(data, KeeperRecord)))


if __name__ == "__main__":
    main()
