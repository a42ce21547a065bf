"""A session in the foreground: its output comes out here, until it ends, is left, or a signal wants us gone."""

from __future__ import annotations

import asyncio
from functools import partial
from signal import SIGPIPE
from typing import TYPE_CHECKING

from .pipe import reader_watched
from .terminal import STDERR, STDOUT, write

if TYPE_CHECKING:
    from ..lifecycle import ExecSession
    from .foreground import Interrupts
    from .keyboard import Keyboard

__all__ = ["seen_through"]


async def seen_through(session: ExecSession, interrupts: Interrupts, keyboard: Keyboard) -> int | None:
    """None: its output has ended; else our exit code: 128 + n for a signal, 0 where the keys that leave were typed."""
    copying = asyncio.create_task(_copied(session))
    interrupted = asyncio.create_task(interrupts.next())
    left = asyncio.create_task(keyboard.detached.wait())
    try:
        with reader_watched(STDOUT, partial(interrupts.put, SIGPIPE)):
            await asyncio.wait({copying, interrupted, left}, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.done():
            return 128 + interrupted.result()
        if copying.done():
            await copying
            return None
        return 0
    finally:
        for task in (copying, interrupted, left):
            task.cancel()
        await asyncio.wait({copying, interrupted, left})


async def _copied(session: ExecSession) -> None:
    async for stream, data in session:
        await write(STDOUT if stream == "stdout" else STDERR, data)
