"""The log of an engine that keeps none: whoever holds the log's lock pulls the output, the others read the file.

A cursor stands in the log behind each chunk, so that the next holder goes on where this one was killed.
"""

from __future__ import annotations

import asyncio
import logging

from ..engine import Chunk
from ..errors import EngineUnreachable
from ..journal.clock import nanoseconds
from ..logs.writer import LogWriter
from ..types import Stream
from .core import Core
from .deadline import BACKOFF
from .live import Live

__all__ = ["pull"]

_log = logging.getLogger(__name__)


async def pull(core: Core, live: Live) -> None:
    """Brings the job's output into its log, to the end; waits for the end of another process's pull."""
    if live.handle is None:
        return
    writer = await _open(core, live)
    try:
        if not writer.ended:
            await _copy(core, live, writer)
            await core.in_thread(writer.end)
    finally:
        await asyncio.shield(core.in_thread(writer.close))


async def _open(core: Core, live: Live) -> LogWriter:
    cap = int(core.settings.log_cap)
    while True:
        opening = asyncio.ensure_future(core.in_thread(LogWriter.open, live.x.folder, cap, max(cap // 16, 1)))
        try:
            return await asyncio.shield(opening)
        except BlockingIOError:
            await asyncio.sleep(_LOCKED)  # flock has no event; the holder's death frees it
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise


async def _copy(core: Core, live: Live, writer: LogWriter) -> None:
    loop, tries = asyncio.get_running_loop(), 0
    while live.handle is not None:
        began = loop.time()
        # What an earlier holder wrote behind its last cursor comes again: it is passed over.
        after, known = await core.in_thread(lambda: (writer.last_cursor(), writer.after_cursor()))
        try:
            async for chunk in live.engine.output(live.x, live.handle, after):
                await core.in_thread(_write, writer, chunk, known)
                tries = 0
            return
        except EngineUnreachable as error:
            if loop.time() - began > _FOLLOWED:
                tries = 0
            pause = BACKOFF[min(tries, len(BACKOFF) - 1)]
            tries += 1
            _log.warning("log: %s; read again in %g s", error, pause, extra={"execution_id": live.x.id})
            await asyncio.sleep(pause)


def _write(writer: LogWriter, chunk: Chunk, known: dict[Stream, int]) -> None:
    for stream, count in chunk.lost.items():
        known[stream] = 0
        writer.gap(stream, count, nanoseconds(chunk.time))
    skip = min(known.get(chunk.stream, 0), len(chunk.data))
    known[chunk.stream] = known.get(chunk.stream, 0) - skip
    if skip < len(chunk.data):
        writer.write(chunk.stream, nanoseconds(chunk.time) or 0, chunk.data[skip:])
    writer.cursor(chunk.cursor)


def _close_unwanted(opening: asyncio.Future[LogWriter]) -> None:
    """A thread cannot be cancelled: what it opened for nobody is closed when it is done."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


_LOCKED = 0.1
_FOLLOWED = 5.0  # seconds after which a log that broke had been followed, be it that nothing came
