"""The end of a job as its log tells it: a kubelet tells the cluster of the same up to seconds later.

The init's last word in the log is all that a result is made of, and who pulls the log has it at once. It stands where
nothing but the job or we can have ended it; else the cluster is waited for, which knows who did.
"""

from __future__ import annotations

import asyncio
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
_TRIES = (0.2, 1.0, 3.0)  # seconds behind a look at a log's end that told nothing
_SILENT = 15.0  # seconds beyond a deleted pod's grace in which its kubelet ends it, if there is one
_log = logging.getLogger("dms_executor.kubernetes")


class Hearing(Signals):
    """The part of the engine that knows an end by the log."""

    _sites: Sites
    _said: dict[str, asyncio.Future[Report]]
    _readings: dict[str, Reading]
    _pulled: set[str]

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
        for pause in _TRIES:
            try:
                lines = await log_tail(self._sites.of(x).client, x.token)
            except (ApiError, EngineUnavailable, EngineUnreachable) as error:
                _log.info("the end of its log: %s", error, extra={"execution_id": x.id})
            else:
                if lines.report.is_over or (not lines.is_empty and not report_of(pod).is_over):
                    return lines.report
                if not lines.is_empty and pause == _TRIES[-1]:
                    return lines.report
            await asyncio.sleep(pause)
        return report_of(pod)

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
