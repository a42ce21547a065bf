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
from .output import Reading, read_log
from .view import report_of

__all__ = ["Logs"]

_RETRIES = 3


class Logs(Hearing):
    """The part of the engine that gives output."""

    _readings: dict[str, Reading]
    _ends: dict[str, int]
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
        self._pulled.add(x.token)
        try:
            reading = reading or await read_log(self._sites.of(x).client, x.token, after, whole=not is_part)
            lines = reading.lines
            async with aclosing(reading.chunks()) as chunks:
                async for chunk in chunks:
                    if is_part and chunk.lost:
                        self._whole.add(x.token)
                        raise EngineUnreachable("a part of its log is missing", execution_id=x.id)
                    yield chunk
        except (ApiError, EngineUnavailable, EngineUnreachable) as error:
            why = error.message
        finally:
            self._pulled.discard(x.token)
            if reading is not None:
                await reading.close()
        if lines.report.is_over:
            self._last_word(x, lines.report)
            return
        if is_part and reading is not None:
            self._whole.add(x.token)
            raise EngineUnreachable(why, mend="It is read from its beginning", execution_id=x.id)
        if not await self._has_no_more(x):
            raise EngineUnreachable(why, mend="It is tried again", execution_id=x.id)
        pod = self._sites.of(x).pods.known(x.token)
        gap = lines.end(report_of(pod).wrote if pod is not None else None, datetime.now(UTC))
        if gap is not None:
            yield gap

    async def _has_no_more(self, x: Execution) -> bool:
        """Whether to believe that a log which broke, or does not answer, is all there will be of it.

        A pod that is gone has no log; one that has ended has it as long as its node answers, which is tried thrice.
        """
        pod = await self._sites.of(x).pods.now(x.token)
        if pod is None:
            return True
        if pod.has_ended or x.token in self._ends:
            self._ends[x.token] = self._ends.get(x.token, 0) + 1
            return self._ends[x.token] > _RETRIES
        return False
