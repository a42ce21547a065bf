"""The output of a job out of its pod's log, to the end, or to where a node has no more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

from ..engine import Chunk, Execution, Handle
from ..errors import EngineUnavailable, EngineUnreachable
from .client import ApiError
from .hearing import Hearing
from .lines import Lines, since
from .output import read_log
from .view import report_of

__all__ = ["Logs"]


class Logs(Hearing):
    """The part of the engine that gives output."""

    _whole: set[str]

    async def output(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        """The log that was read since the start; for who comes later, from the cursor on."""
        reading = self._readings.pop(x.token, None)
        if reading is not None and after is not None:
            await reading.close()
            reading = None
        lines = reading.lines if reading is not None else Lines(after)
        # A node whose clock was set back gives nothing that was written since, to who asks from a time on.
        is_part = reading is None and bool(since(after)) and x.token not in self._whole
        why = "the stream of its output broke"
        self._pulled[x.token], is_whole = reading, False
        try:
            if reading is None:
                client, is_over = self._sites.of(x).client, x.token in self._over
                reading = await read_log(client, x.token, after, whole=not is_part, is_over=is_over)
                self._pulled[x.token] = reading
            elif x.token in self._over:
                reading.hurry()
            lines = reading.lines
            async with aclosing(reading.chunks()) as chunks:
                async for chunk in chunks:
                    self._asked.pop(x.token, None)
                    if is_part and chunk.lost:
                        self._whole.add(x.token)
                        raise EngineUnreachable("a part of its log is missing", execution_id=x.id)
                    yield chunk
            is_whole = True
        except (ApiError, EngineUnavailable, EngineUnreachable) as error:
            why = error.message
        finally:
            self._pulled.pop(x.token, None)
            if reading is not None:
                await reading.close()
        if lines.report.is_over:
            self._last_word(x, lines.report)
            return
        if is_part and reading is not None:
            self._whole.add(x.token)
            raise EngineUnreachable(why, mend="It is read from its beginning", execution_id=x.id)
        if not await self._has_no_more(x, was_answered=is_whole):
            raise EngineUnreachable(why, mend="It is tried again", execution_id=x.id)
        pod = self._sites.of(x).pods.known(x.token)
        gap = lines.end(report_of(pod).wrote if pod is not None else None, datetime.now(UTC))
        if gap is not None:
            yield gap
