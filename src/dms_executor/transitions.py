"""Every transition, numbered, as `events` gives them: the same in each process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .lifecycle import Core
from .types import Event

__all__ = ["transitions"]


async def transitions(
    core: Core, newest: asyncio.Task[int] | None, position: int, *, follow: bool
) -> AsyncIterator[Event]:
    """Those after `position`, or after what `newest` gives; with `follow` it goes on until the executor is closed."""
    core.changes.listen()
    if newest is not None:
        position = await newest
    while True:
        changed = core.changes.next()
        batch = await core.journal.events(position)
        for event, _token in batch:
            position = event.sequence
            yield event
        if batch:
            continue
        if not follow:
            return
        for owner in await core.journal.open_owners():
            if owner is not None and owner != core.owner:
                await core.mind_owner(owner)
        await core.unless_closed(changed)
