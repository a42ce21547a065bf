"""One reading of a pod's log: first for the init's word that the job runs, then for the job's output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime

from ..engine import Chunk
from ..errors import EngineUnreachable, StartFailed
from .client import Client
from .lines import TAIL, Lines, since
from .names import CONTAINER, pod_name

__all__ = ["Reading", "log_head", "log_tail", "read_log"]

_SILENCE = 20.0  # seconds without a byte after which a log of a pod that has ended is one that its node does not give
_LOOK = 3.0  # seconds: many are looked at when a caller comes back
_HEAD = 8192  # bytes in which the init's first words are


class Reading:
    """A log that is followed. `lines.report` is what the init has said in it so far."""

    def __init__(self, stack: AsyncExitStack, pieces: AsyncIterator[bytes], lines: Lines) -> None:
        self._stack = stack
        self._pieces = pieces
        self._early: list[Chunk] = []
        self._is_over = False
        self._bound: asyncio.Timeout | None = None
        self.lines = lines

    async def started(self, execution_id: str) -> datetime | None:
        """When the job's command was executed; None: the log ended before. Raises `StartFailed`."""
        report = self.lines.report
        async for piece in self._pieces:
            self._early += self.lines.take(piece)
            if report.started_at is not None or report.error:
                break
        if report.error and report.started_at is None:
            mend = "Check command, user and image; the image's own ENTRYPOINT is not known to a cluster"
            raise StartFailed(report.error, errno=report.errno, mend=mend, execution_id=execution_id)
        return report.started_at

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """What is new, to the end of the log, or of the job. Raises `EngineUnreachable`."""
        early, self._early = self._early, []
        for chunk in early:
            yield chunk
        if self.lines.report.is_over:
            return
        while (piece := await self._next()) is not None:
            for chunk in self.lines.take(piece):
                yield chunk
            if self.lines.report.is_over:
                return

    def hurry(self) -> None:
        """Its pod has ended, or its node with it: what there is of it comes now, or nobody knows when."""
        self._is_over = True
        if self._bound is not None:
            self._bound.reschedule(asyncio.get_running_loop().time() + _SILENCE)

    async def _next(self) -> bytes | None:
        """Whatever stands before a dead node may keep a connection open for ever."""
        try:
            async with asyncio.timeout(_SILENCE if self._is_over else None) as self._bound:
                return await anext(self._pieces, None)
        except TimeoutError as error:
            raise _silent() from error
        finally:
            self._bound = None

    async def close(self) -> None:
        """Idempotent."""
        await self._stack.aclose()


async def read_log(
    client: Client, token: str, after: bytes | None, *, whole: bool = False, is_over: bool = False
) -> Reading:
    """Once it returns, the cluster follows. `whole`: from its beginning, whenever what was given last was written;
    `is_over`: its pod has ended. Raises `ApiError`, `EngineUnreachable`.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-read-log-of-the-specified-pod
    """
    query = {"container": CONTAINER, "follow": "true"}
    if not whole and (begin := since(after)):
        query["sinceTime"] = begin
    stack = AsyncExitStack()
    opening = client.stream("GET", f"pods/{pod_name(token)}/log", query=query)
    try:
        async with asyncio.timeout(_SILENCE if is_over else None):
            pieces = await stack.enter_async_context(opening)
    except TimeoutError as error:
        raise _silent() from error
    reading = Reading(stack, pieces, Lines(after))
    if is_over:
        reading.hurry()
    return reading


async def log_head(client: Client, token: str) -> Lines:
    """What the log begins with, as it is now. Raises `ApiError`, `EngineUnreachable`."""
    return await _part(client, token, limitBytes=str(_HEAD))


async def log_tail(client: Client, token: str) -> Lines:
    """What it ends with: the init's last word, where it has said that. Raises `ApiError`, `EngineUnreachable`."""
    return await _part(client, token, tailLines=str(TAIL))


async def _part(client: Client, token: str, **which: str) -> Lines:
    lines, query = Lines(), {"container": CONTAINER, **which}
    async with client.stream("GET", f"pods/{pod_name(token)}/log", deadline=_LOOK, query=query) as pieces:
        async for piece in pieces:
            for _ in lines.take(piece):
                pass
    return lines


def _silent() -> EngineUnreachable:
    return EngineUnreachable(f"nothing comes of its log for {_SILENCE:g} s", mend="It is tried again")
