"""Signals to a job in a pod: our init, executed in the container, sends them (docs/protocol.md, section 3).

Deleting the pod would end the job as well, and take its exit code and its log away with it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import Execution, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning
from .client import ApiError
from .names import CONTAINER, INIT, pod_name

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Signals"]

_TORN_DOWN = 137  # the container ended, and took the sender along


class Signals:
    """The part of the engine that signals jobs which run."""

    _sites: Sites
    _signalling: dict[str, asyncio.Lock]

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """The init passes it on to the job. Raises `ExecutionNotRunning`."""
        if not await self._noted(x, str(signum)):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The signal now; the grace is kept in the container. A job whose init took it had not ended before."""
        await self._noted(x, str(signum), str(max(round(grace * 1000), 0)), stops=True)

    async def _noted(self, x: Execution, *words: str, stops: bool = False) -> bool:
        """False: it does not run any more. Noted first: the job may be over before the cluster has answered."""
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            is_first = await asyncio.to_thread(_note, x)
            was_sent = False
            try:
                was_sent = await self._sent(x, *words)
                if was_sent and stops:
                    await asyncio.to_thread(_note, x, "stopped")
            finally:
                if not was_sent and is_first:
                    await asyncio.to_thread(_forget, x)
            return was_sent

    async def _sent(self, x: Execution, *words: str) -> bool:
        try:
            code, said = await self._sites.of(x).client.execute(pod_name(x.token), CONTAINER, [INIT, "-k", *words])
        except ApiError as error:
            code, said = -1, error.message
        if code in (0, _TORN_DOWN):
            return True
        if await self._sites.of(x).pods.ends_soon(x.token):
            return False
        raise EngineUnreachable(f"the job could not be signalled: {said}", mend="Ask again", execution_id=x.id)

    async def _was_signalled(self, x: Execution) -> tuple[bool, bool]:
        """Whether we did, and whether that was a stop. Not by comparing clocks: a node has its own."""
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            return await asyncio.to_thread(lambda: (_path(x).exists(), _path(x, "stopped").exists()))


def _path(x: Execution, name: str = "signalled") -> Path:
    return x.folder / name


def _note(x: Execution, name: str = "signalled") -> bool:
    try:
        _path(x, name).touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    except FileNotFoundError:  # it is over, and its folder taken away
        return False
    return True


def _forget(x: Execution) -> None:
    _path(x).unlink(missing_ok=True)
