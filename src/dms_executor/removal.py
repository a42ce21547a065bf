"""Removing an execution: its record, its log and its result, and what a waiter elsewhere still gets."""

from __future__ import annotations

import contextlib
import time

from . import recovery
from .errors import ExecutionAlreadyFinished, ExecutionNotFinished
from .journal import Row
from .lifecycle import Core, cancel
from .lifecycle.finish import with_output
from .types import ExecutionResult

__all__ = ["remove"]

_READ_WITHIN = 60.0
"""Seconds after its end in which a waiter of another process may not have read the result yet."""


async def remove(core: Core, execution_id: str, *, force: bool) -> None:
    """Takes it away, with `force` also one that runs. To be completed once begun: half a removal holds the id."""
    row = await core.row(execution_id)
    if not row.terminal:
        if not force:
            raise ExecutionNotFinished(
                f"execution {execution_id} is {row.status}",
                mend="Cancel it first, or remove it with force",
                execution_id=execution_id,
            )
        with contextlib.suppress(ExecutionAlreadyFinished):
            await cancel(core, execution_id, None, None)
    live = core.live.get(row.token)
    if live is not None:
        await core.unless_closed(live.done.wait())
    ended = await core.journal.by_token(row.token)
    if ended is not None and await core.journal.removing(row.token, await _kept(core, ended)):
        await recovery.discard(core, ended)


async def _kept(core: Core, row: Row) -> ExecutionResult | None:
    """The result, where somebody may still wait for it: whoever does learns of the end a moment later than we."""
    over = row.finished_at is None or time.time() - row.finished_at / 1e9 > _READ_WITHIN
    if over or row.result is None or row.expired:
        return None
    return await with_output(core, row.result, row.token)
