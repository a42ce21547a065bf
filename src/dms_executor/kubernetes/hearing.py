"""The end of a job as its log tells it: a kubelet tells the cluster of the same up to seconds later.

The init's last word in the log is all that a result is made of, and who pulls the log has it at once. It stands where
nothing but the job or we can have ended it; else the cluster is waited for, which knows who did.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..engine import Execution, Exit
from ..errors import EngineUnavailable, EngineUnreachable
from ..supervisor.said import Report
from .client import ApiError
from .names import pod_name
from .signals import Signals
from .view import seen, told

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Hearing"]


class Hearing(Signals):
    """The part of the engine that knows an end by the log."""

    _sites: Sites
    _said: dict[str, asyncio.Future[Report]]

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
        was_killed, was_stopped = await self._was_signalled(x)
        if report.started_at is None and not report.error:
            return None
        if not (was_killed or report.timed_out or await self._is_undisturbed(x, report)):
            return None
        return told(report, killed=was_killed, stopped=was_stopped, now=datetime.now(UTC))

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
