"""The figures of a job, again and again until it ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from ..errors import ExecutionNotFound, ExecutionNotRunning, InvalidRequest
from ..types import Stats
from .core import Core
from .stop import running, stats

__all__ = ["checked_interval", "stats_stream"]


def checked_interval(seconds: float) -> float:
    """Raises `InvalidRequest`."""
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{seconds} is no interval", path="$.interval", mend="Use a number of seconds above 0")
    return seconds


async def stats_stream(core: Core, execution_id: str, interval: float) -> AsyncIterator[Stats]:
    """A sample at once and one each `interval` seconds; ends with the job."""
    live = await running(core, execution_id)
    yield await stats(core, execution_id)
    while True:
        ended = asyncio.ensure_future(live.finished.wait())
        try:
            await core.unless_closed(asyncio.wait({ended}, timeout=interval))
        finally:
            ended.cancel()
        try:
            sample = await stats(core, execution_id)
        except (ExecutionNotRunning, ExecutionNotFound):
            return
        yield sample
