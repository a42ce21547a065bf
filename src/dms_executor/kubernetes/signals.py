"""Signals to a job in a pod: our init, executed in the container, sends them (docs/protocol.md, section 3).

Deleting the pod ends the job as well, and may take its exit code and its log away with it: so is ended what refuses for
long all that is executed in it, by a limit of tasks that its job has reached, or by its node.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from ..engine import Execution, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning
from .client import ApiError
from .names import CONTAINER, INIT, pod_name
from .sent import SIGNALLED, STOPPED, Sent, forget, note, sent_to

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Signals"]

_TORN_DOWN = 137  # the container ended, and took the sender along
_PATIENCE, _TRIES = 60.0, 3
"""Seconds, and tries, in which a container may refuse a stop while its cluster answers: a new kubelet takes less."""
_log = logging.getLogger("dms_executor.kubernetes")


class Signals:
    """The part of the engine that signals jobs which run."""

    _sites: Sites
    _signalling: dict[str, asyncio.Lock]
    _refused: dict[str, tuple[float, int]]
    """Since when, and how often, containers have refused what was to stop them."""

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """The init passes it on to the job. Raises `ExecutionNotRunning`."""
        if not await self._noted(x, str(signum)):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The signal now; the grace is kept in the container, or by the kubelet where nothing starts in that any more.

        Raises `EngineUnreachable`.
        """
        try:
            await self._noted(x, str(signum), str(max(round(grace * 1000), 0)), stops=True)
        except EngineUnreachable as error:
            if not await self._has_refused(x):
                raise
            _log.warning("its pod is deleted: %s", error.message, extra={"execution_id": x.id})
            await self._end_pod(x, grace)

    async def _noted(self, x: Execution, *words: str, stops: bool = False) -> bool:
        """False: it does not run any more. Noted first: the job may be over before the cluster has answered.

        Raises `EngineUnreachable`; where it is not known whether it was sent, that stays noted.
        """
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            new = await asyncio.to_thread(note, x, (SIGNALLED, STOPPED) if stops else (SIGNALLED,))
            was_sent, why = await self._sent(x, *words)
            if not was_sent:
                await asyncio.to_thread(forget, x, new)
        if why:
            raise EngineUnreachable(f"the job could not be signalled: {why}", mend="Ask again", execution_id=x.id)
        return was_sent

    async def _sent(self, x: Execution, *words: str) -> tuple[bool, str]:
        """Whether it was; if not, why its container refuses it, empty where that has ended. Raises `EngineUnreachable`
        where neither is known.
        """
        try:
            code, said = await self._sites.of(x).client.execute(pod_name(x.token), CONTAINER, [INIT, "-k", *words])
        except ApiError as error:
            code, said = -1, error.message
        if code in (0, _TORN_DOWN):
            return True, ""
        if await self._sites.of(x).pods.ends_soon(x.token):
            return False, ""
        return False, said.strip() or f"code {code}"

    async def _has_refused(self, x: Execution) -> bool:
        """Whether it has for so long, and so often, that nothing will come of it. Raises `EngineUnreachable` where the
        cluster does not answer, which says nothing of its nodes.
        """
        now = asyncio.get_running_loop().time()
        try:
            pod = await self._sites.of(x).pods.now(x.token)
        except EngineUnreachable:
            self._refused.pop(x.token, None)
            raise
        if pod is None or pod.has_ended:
            return False
        since, tries = self._refused.get(x.token, (now, 0))
        self._refused[x.token] = since, tries + 1
        return tries + 1 >= _TRIES and now - since >= _PATIENCE

    async def _end_pod(self, x: Execution, grace: float) -> None:
        """TERM, the grace, and KILL, by its kubelet. Raises `EngineUnreachable`."""
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            new = await asyncio.to_thread(note, x, (SIGNALLED, STOPPED))
            # 0 would only strike it off the cluster's books.
            seconds = str(max(math.ceil(grace), 1))
            try:
                await self._sites.of(x).client.call("DELETE", f"pods/{pod_name(x.token)}", gracePeriodSeconds=seconds)
            except ApiError as error:
                await asyncio.to_thread(forget, x, new)
                if error.status != 404:
                    raise EngineUnreachable(error.message, mend=error.mend, execution_id=x.id) from error

    async def _was_sent(self, x: Execution) -> Sent:
        """What it was sent, and has not lost on the way."""
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            return await asyncio.to_thread(sent_to, x)
