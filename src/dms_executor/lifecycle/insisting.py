"""A stop that an engine could not be given is given again, until it has it in hand or the job has ended.

For as long as the executor is open; then the record has the intent still, and whoever opens the state folder next
carries it out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import NoReturn

import msgspec

from ..errors import EngineUnavailable, EngineUnreachable, StateError
from ..journal import Intent
from .core import Core
from .deadline import BACKOFF
from .follow import adopt

__all__ = ["carry_out", "insist"]

_log = logging.getLogger(__name__)
_MEND = (
    "It is tried again for as long as this executor is open, then by whoever opens its state folder next; "
    "`wait` tells of the end"
)


async def carry_out(core: Core, token: str, wanted: Intent) -> None:
    """Stops a job that runs, if it still does. Raises `EngineUnreachable`, and goes on trying then."""
    try:
        await _stop(core, token, wanted)
    except (EngineUnavailable, EngineUnreachable) as error:
        insist(core, token, wanted)
        _raise(error)


def insist(core: Core, token: str, wanted: Intent) -> None:
    """Begins to try it again, with what is wanted last and the shortest grace; one task for each execution."""
    if core.closing.is_set():
        return
    known = core.insisting.get(token)
    if known is None:
        core.insisting[token] = wanted
        core.tasks.spawn(_insist(core, token), f"stop {token} again")
    else:
        core.insisting[token] = msgspec.structs.replace(wanted, grace=min(known.grace, wanted.grace))


async def _insist(core: Core, token: str) -> None:
    try:
        for pause in itertools.chain(BACKOFF, itertools.repeat(BACKOFF[-1])):
            await asyncio.sleep(pause)
            wanted = core.insisting[token]
            try:
                await _stop(core, token, wanted)
            except (EngineUnavailable, EngineUnreachable, StateError) as error:
                _log.warning("not stopped yet: %s; tried again", error)
            else:
                if core.insisting[token] is wanted:
                    return
    finally:
        del core.insisting[token]


async def _stop(core: Core, token: str, wanted: Intent) -> None:
    row = await core.journal.by_token(token)
    if row is None:
        return
    if row.phase == "running":
        live = await adopt(core, row)
        if live.handle is not None:
            # A later stop joins the one in hand: the engine keeps the shorter grace, the first cause is committed.
            await live.engine.stop(live.x, live.handle, wanted.signal, wanted.grace)
    await core.journal.stop_in_hand(token, row.stopper)


def _raise(error: EngineUnavailable | EngineUnreachable) -> NoReturn:
    message = f"not stopped yet: {error.message}"
    raise EngineUnreachable(message, mend=_MEND, execution_id=error.execution_id) from error
