"""What of a pod is looked at, and what it means: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..engine import Exit
from ..errors import ExecutorError, ImageNotFound, ImagePullFailed, StartFailed
from ..supervisor.said import Report
from ..typed import known
from .names import CONTAINER, TOKEN

__all__ = ["Pod", "ended", "forsaken", "may_pass", "report_of", "seen", "told", "trouble", "waits_for"]

_KILLED = 137
_LATE = "DeadlineExceeded"
_MISSING = ("not found", "manifest unknown", "does not exist", "not present", "no such image")
_AUTH = re.compile(r"unauthorized|authentication required|denied|forbidden|\b40[13]\b")
_HOPELESS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_PASSING = _HOPELESS[
    :2
]  # what a kubelet says under load, too, and tries again: a deadline, a cache that is not there yet
_MEND = "Check command, user and image; the image's own ENTRYPOINT is not known to a cluster"


class _Waiting(msgspec.Struct, rename="camel"):
    reason: str = ""
    message: str = ""


class _Running(msgspec.Struct, rename="camel"):
    started_at: datetime | None = None


class _Terminated(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None


class _State(msgspec.Struct, rename="camel"):
    waiting: _Waiting | None = None
    running: _Running | None = None
    terminated: _Terminated | None = None


class _Container(msgspec.Struct, rename="camel"):
    name: str = ""
    state: _State = msgspec.field(default_factory=_State)


class _Condition(msgspec.Struct, rename="camel"):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[_Condition] = []
    container_statuses: list[_Container] = []
    init_container_statuses: list[_Container] = []


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int = 0


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class Pod(msgspec.Struct, rename="camel"):
    """`state`: of its job's container; others stand beside it where there are inputs or outputs.

    `was_removed`: the cluster has no such pod any more; this is what it last knew of it.
    """

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)
    was_removed: bool = False

    @property
    def token(self) -> str:
        """Whose it is."""
        return self.metadata.labels.get(TOKEN, "")

    @property
    def state(self) -> _State:
        """The kubelet's word; without one yet, nothing."""
        return next((c.state for c in self.status.container_statuses if c.name in ("", CONTAINER)), _State())

    @property
    def is_running(self) -> bool:
        """Whether its init runs, be it that it only waits for the go."""
        return self.state.running is not None

    @property
    def is_up(self) -> bool:
        """Whether all of its containers do."""
        return self.is_running and all(c.state.running is not None for c in self.status.container_statuses)

    @property
    def takes_inputs(self) -> bool:
        """Whether what is to take them runs."""
        return any(c.state.running is not None for c in self.status.init_container_statuses)

    @property
    def is_placed(self) -> bool:
        """Whether a node has taken it."""
        return bool(self.spec.node_name)

    @property
    def is_disturbed(self) -> bool:
        """Whether somebody is ending it, or has: the cluster, or who deleted it."""
        return _why_lost(self) is not None

    def end_of(self, container: str) -> int | None:
        """With which code that one has ended; None: it has not."""
        there = [*self.status.init_container_statuses, *self.status.container_statuses]
        ends = [c.state.terminated.exit_code for c in there if c.name == container and c.state.terminated is not None]
        return ends[0] if ends else None

    def lacks(self, container: str) -> bool:
        """Whether that one has ended, or never was."""
        there = [*self.status.init_container_statuses, *self.status.container_statuses]
        states = [c.state for c in there if c.name == container]
        return not states or states[0].terminated is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs, nor ever will."""
        return self.state.terminated is not None or self.status.phase in ("Succeeded", "Failed")


def seen(raw: Any) -> Pod:
    """Out of the cluster's JSON."""
    return msgspec.convert(raw, known(Pod))


def waits_for(pod: Pod) -> str:
    """Why it does not run yet, in the cluster's words; empty where it has none."""
    waiting = _waiting(pod)
    if waiting is not None and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
        return f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    return ""


def trouble(pod: Pod) -> ExecutorError | None:
    """What no waiting mends. A registry that does not answer, and a full cluster, may be mended by it."""
    if pod.has_ended:
        return StartFailed(_why_ended(pod), mend=_MEND)
    waiting = _waiting(pod)
    if waiting is None:
        return None
    said = waits_for(pod)
    if waiting.reason in ("ErrImageNeverPull", "InvalidImageName"):
        return ImageNotFound(said, mend="Check the image's name, or let it be pulled")
    if waiting.reason in ("ErrImagePull", "ImagePullBackOff"):
        lower = waiting.message.lower()
        if _AUTH.search(lower):
            return ImagePullFailed(said, cause_kind="auth", mend="Give image_pull_secrets in the engine's settings")
        if any(word in lower for word in _MISSING):
            return ImageNotFound(said, mend="Check the image's name")
        if "no match for platform" in lower:
            return ImagePullFailed(said, cause_kind="platform", mend="Use an image for the nodes' architecture")
    return StartFailed(said, mend=_MEND) if waiting.reason in _HOPELESS else None


def may_pass(pod: Pod) -> bool:
    """Whether its trouble is of the kind that a kubelet may get over by itself."""
    waiting = None if pod.has_ended else _waiting(pod)
    return waiting is not None and waiting.reason in _PASSING


def _waiting(pod: Pod) -> _Waiting | None:
    """What the first of its containers that has a reason waits for: those before the job's come first."""
    for container in [*pod.status.init_container_statuses, *pod.status.container_statuses]:
        waiting = container.state.waiting
        if waiting is not None and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
            return waiting
    return pod.state.waiting


def report_of(pod: Pod) -> Report:
    """What the init said, as far as the kubelet has read it: lines, as they stand in the log, too."""
    report = Report()
    terminated = pod.state.terminated
    for line in (terminated.message if terminated is not None else "").encode().split(b"\n"):
        words = line.split(b" ")
        if len(words) == 4 and words[0] == b"r":
            try:
                report.take(base64.b64decode(words[3], validate=True))
            except binascii.Error:
                continue
    return report


def forsaken(pod: Pod, *, stopped: bool = False) -> Exit:
    """The end of a pod that was to be gone long ago: its node is dead, or cut off."""
    lost = f"its node does not answer: {_why_lost(pod) or 'no reason given'}"
    return Exit(lost=lost, finished_at=datetime.now(UTC), stopped_by="stop" if stopped else None)


def ended(pod: Pod | None, report: Report, *, killed: bool, stopped: bool = False) -> Exit | None:
    """The end of a pod, None while it has not ended. One that something else than its job or we ended is lost.

    `killed`: it was sent a signal by us, which says nothing against what the cluster says of its end; `stopped`: for a
    stop, and it had not ended then. Which of a stop and a timeout came first is known better by who has both times.
    """
    is_late = pod is not None and pod.status.reason == _LATE and (report.outside or not report.is_over)
    ours = stopped or report.timed_out or is_late
    found = _ended(pod, report, killed=killed or report.timed_out or is_late, ours=ours)
    return _with_cause(found, report, stopped, is_late=is_late) if found is not None else None


def told(report: Report, *, killed: bool, stopped: bool, now: datetime) -> Exit:
    """The end of a job by its init's word alone, which is over; the rest as for `ended`."""
    return _with_cause(report.to_exit(killed=killed or report.timed_out, now=now), report, stopped)


def _with_cause(found: Exit, report: Report, stopped: bool, *, is_late: bool = False) -> Exit:
    if not (stopped or report.timed_out or is_late):
        return found
    return msgspec.structs.replace(found, stopped_by="deadline" if report.timed_out or is_late else "stop")


def _ended(pod: Pod | None, report: Report, *, killed: bool, ours: bool) -> Exit | None:
    now = datetime.now(UTC)
    if pod is None:
        return Exit(lost="its pod is gone", started_at=report.started_at, finished_at=now, killed=killed)
    if not pod.has_ended:
        why = _why_lost(pod) or "its pod is gone"
        return Exit(lost=why, finished_at=now, killed=killed) if pod.was_removed else None
    terminated = pod.state.terminated
    finished = terminated.finished_at if terminated is not None and terminated.finished_at else now
    lost = _why_lost(pod)
    if report.is_over and (ours or lost is None or pod.status.reason == _LATE):
        return report.to_exit(killed=killed, now=finished)
    code = terminated.exit_code if terminated is not None else None
    if ours and code == _KILLED:
        lost = None
    if lost is None and terminated is not None and terminated.reason == "OOMKilled":
        return Exit(code=code, signal=9, oom_kills=1, killed=True, started_at=report.started_at, finished_at=finished)
    if lost is None and killed and code == _KILLED:
        return Exit(code=code, signal=9, killed=True, started_at=report.started_at, finished_at=finished)
    lost = lost or f"its pod was ended from outside: {_why_ended(pod)}"
    return Exit(code=code or None, lost=lost, started_at=report.started_at, finished_at=finished, killed=killed)


def _why_lost(pod: Pod) -> str | None:
    """Why the cluster ended it, in its words; None: it did not."""
    for condition in pod.status.conditions:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return f"{condition.reason}: {condition.message}"
    if pod.status.reason:
        return f"{pod.status.reason}: {pod.status.message}"
    return "its pod was deleted" if pod.metadata.deletion_timestamp is not None else None


def _why_ended(pod: Pod) -> str:
    terminated = pod.state.terminated
    if terminated is None:
        return f"{pod.status.reason or pod.status.phase}: {pod.status.message}"
    words = report_of(pod).error or (terminated.message if not terminated.message.startswith("r ") else "")
    return f"{terminated.reason or 'ended'} with code {terminated.exit_code}{': ' if words else ''}{words.strip()}"
