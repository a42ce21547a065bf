"""The end of a job as its log tells it: a kubelet tells the cluster of the same up to seconds later.

The init's last word in the log is all that a result is made of, and who pulls the log has it at once. It stands where
nothing but the job or we can have ended it; else the cluster is waited for, which knows who did.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..engine import Execution, Exit
from ..errors import EngineUnavailable, EngineUnreachable
from ..supervisor.said import Report
from .client import ApiError
from .names import pod_name
from .output import Reading, log_tail
from .signals import Signals
from .view import Pod, report_of, seen, told

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Hearing"]

_PULLED = 10.0  # seconds in which a log that is read here comes to its end
_AGAIN = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between two looks at a log's end that told nothing
_PATIENCE = 60.0  # seconds in which a kubelet that is silent, as one that begins anew, gives an ended pod's log
_BRIEF = 1.5  # seconds in which what a node gives of it gets its end, and in which one may that takes the pod away
_SILENT = 15.0  # seconds beyond a deleted pod's grace in which its kubelet ends it, if there is one
_log = logging.getLogger("dms_executor.kubernetes")


class Hearing(Signals):
    """The part of the engine that knows an end by the log."""

    _sites: Sites
    _said: dict[str, asyncio.Future[Report]]
    _readings: dict[str, Reading]
    _pulled: dict[str, Reading | None]
    _over: set[str]
    _asked: dict[str, float]
    _forsaken: set[str]

    def _last_word(self, x: Execution, report: Report) -> None:
        """Whoever watches it hears that."""
        said = self._hears(x)
        if report.is_over and not said.done():
            said.set_result(report)

    async def _heard(self, x: Execution, seeing: asyncio.Future[Any]) -> Exit | None:
        """The end by the log; None: the cluster has the word, be it that it was first (`seeing`)."""
        said = self._hears(x)
        await asyncio.wait([said, seeing], return_when=asyncio.FIRST_COMPLETED)
        if seeing.done():
            return None
        report = said.result()
        sent = await self._was_sent(x)
        if report.started_at is None and not report.error:
            return None
        # A signal that was sent at some time says nothing of what has ended it now.
        was_ours = sent.stopped or report.timed_out
        if not was_ours and report.status is not None and os.WIFSIGNALED(report.status):
            return None  # as by a node that evicts it, and tells the cluster of that a little later
        if not was_ours and not await self._is_undisturbed(x, report):
            return None
        found = told(report, killed=sent.signalled, stopped=sent.stopped, now=datetime.now(UTC))
        return sent.judged(found, x.request.timeout)

    async def _word_of(self, x: Execution, pod: Pod) -> Report:
        """What the init of a pod that has ended said of that. In its log, where no job can write; what the kubelet has
        read of a file, where one can, counts only where the log is lost.
        """
        if pod.was_removed:
            return self._hears(x).result() if self._hears(x).done() else report_of(pod)
        if x.token in self._pulled or x.token in self._readings:
            await asyncio.wait([self._hears(x)], timeout=_PULLED)
        if self._hears(x).done():
            return self._hears(x).result()
        for pause in itertools.chain(_AGAIN, itertools.repeat(_AGAIN[-1])):
            lines = None
            try:
                lines = await log_tail(self._sites.of(x).client, x.token)
            except (ApiError, EngineUnavailable, EngineUnreachable) as error:
                _log.info("the end of its log: %s", error, extra={"execution_id": x.id})
            if lines is not None and not lines.is_empty and (lines.report.is_over or not report_of(pod).is_over):
                return lines.report
            if await self._has_no_more(x, was_answered=lines is not None):
                return lines.report if lines is not None and not lines.is_empty else report_of(pod)
            await asyncio.wait([self._hears(x)], timeout=pause)
            if self._hears(x).done():
                return self._hears(x).result()
        raise AssertionError("unreachable")

    async def _has_no_more(self, x: Execution, *, was_answered: bool) -> bool:
        """Whether to believe that a log which broke, or does not come, is all there will be of it.

        A pod that is gone has no log. One that has ended has it as long as it stands: a kubelet that is away is waited
        for, one that gave what it has (`was_answered`), or whose pod is taken away, shortly. An API server that does
        not answer says nothing of any log: raises `EngineUnreachable`.
        """
        try:
            pod = await self._sites.of(x).pods.now(x.token)
        except (EngineUnavailable, EngineUnreachable) as error:
            self._asked.pop(x.token, None)
            raise EngineUnreachable(error.message, mend=error.mend, execution_id=x.id) from error
        if pod is None:
            return True
        if not pod.has_ended and x.token not in self._over:
            self._asked.pop(x.token, None)
            return False
        now = asyncio.get_running_loop().time()
        seconds = _BRIEF if was_answered or pod.is_disturbed or x.token in self._forsaken else _PATIENCE
        return now - self._asked.setdefault(x.token, now) >= seconds

    def _is_over(self, x: Execution) -> None:
        """Its pod has ended, or is given up: nothing is written to its log any more."""
        self._over.add(x.token)
        reading = self._pulled.get(x.token)
        if reading is not None:
            reading.hurry()

    async def _last_seen(self, x: Execution) -> tuple[Pod | None, bool]:
        """Once it has ended, or is gone; or was deleted, and its node has not done that in its time and some more."""
        loop, gone_at = asyncio.get_running_loop(), None
        pods = self._sites.of(x).pods
        async with aclosing(pods.changes(x.token)) as changes:
            pod = await anext(changes)
            while pod is not None and not pod.has_ended:
                if gone_at is None and pod.metadata.deletion_timestamp is not None:
                    gone_at = loop.time() + pod.metadata.deletion_grace_period_seconds + _SILENT
                try:
                    async with asyncio.timeout_at(gone_at):
                        pod = await anext(changes)
                except TimeoutError:
                    return pod, True
            return (pod if pod is not None else pods.removed(x.token)), False

    def _hears(self, x: Execution) -> asyncio.Future[Report]:
        return self._said.setdefault(x.token, asyncio.get_running_loop().create_future())

    async def _is_undisturbed(self, x: Execution, report: Report) -> bool:
        """Whether nobody else was ending its pod. One that ended well is believed without asking the cluster anew.

        A kubelet that evicts tells the cluster after it has signalled.
        """
        if report.outside:
            return False
        site = self._sites.of(x)
        pod = site.pods.known(x.token)
        if pod is not None and not pod.is_disturbed and report.status != 0:
            try:
                pod = seen(await site.client.call("GET", f"pods/{pod_name(x.token)}"))
            except (ApiError, EngineUnavailable, EngineUnreachable):
                return False
        return pod is not None and not pod.is_disturbed
