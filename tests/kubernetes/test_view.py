"""What a pod's status means, from statuses as a kubelet writes them."""

from __future__ import annotations

from typing import Any

import pytest

from dms_executor.errors import ExecutorError, ImageNotFound, ImagePullFailed, StartFailed
from dms_executor.kubernetes.view import Pod, ended, report_of, seen, trouble, waits_for

_BORN = "r 0 1 AAAAAGMAAAA="
_EXITED_3 = "r 0 1 BAAAAGIAAAAAAwAA"


def pod(state: dict[str, Any] | None = None, phase: str = "Running", **rest: Any) -> Pod:
    deleted = {"deletionTimestamp": rest.pop("deleted")} if "deleted" in rest else {}
    statuses = [{"state": state}] if state is not None else []
    status = {"phase": phase, "containerStatuses": statuses, **rest}
    return seen({"metadata": {"name": "n", "resourceVersion": "1", **deleted}, "status": status})


def terminated(code: int, message: str = "", reason: str = "Error", **rest: Any) -> Pod:
    state = {"exitCode": code, "message": message, "reason": reason, "finishedAt": "2026-11-28T08:00:00Z"}
    return pod({"terminated": state}, "Succeeded" if code == 0 else "Failed", **rest)


def test_the_inits_report_is_the_end() -> None:
    found = terminated(3, f"{_BORN}\n{_EXITED_3}\n")
    end = ended(found, report_of(found), killed=False)
    assert end is not None
    assert (end.code, end.signal, end.lost) == (3, None, None)


def test_a_pod_that_runs_has_no_end() -> None:
    assert ended(pod({"running": {"startedAt": "2026-11-28T08:00:00Z"}}), report_of(pod()), killed=False) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "its pod is gone"),
        (terminated(137, _BORN), "ended from outside"),
        (terminated(0), "ended from outside"),
        (terminated(143, _EXITED_3, deleted="2026-11-28T08:00:00Z"), "its pod was deleted"),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "Evicted: low on memory"),
    ],
    ids=["gone", "killed", "silent", "deleted", "evicted"],
)
def test_what_its_job_did_not_end_is_lost(found: Pod | None, words: str) -> None:
    end = ended(found, report_of(found or pod()), killed=False)
    assert end is not None
    assert words in (end.lost or "")
    assert end.code != 0


@pytest.mark.parametrize(("stopped", "is_lost"), [(False, True), (True, False)])
def test_only_a_stop_makes_the_end_of_a_deleted_pod_its_jobs(stopped: bool, is_lost: bool) -> None:
    found = terminated(3, f"{_BORN}\n{_EXITED_3}\n", deleted="2026-11-28T08:00:00Z")
    end = ended(found, report_of(found), killed=True, stopped=stopped)
    assert end is not None
    assert (end.lost is not None) == is_lost


def test_a_container_that_the_kernel_killed_whole_was_out_of_memory() -> None:
    found = terminated(137, _BORN, reason="OOMKilled")
    end = ended(found, report_of(found), killed=False)
    assert end is not None
    assert (end.code, end.signal, end.oom_kills, end.lost) == (137, 9, 1, None)


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        ("ErrImageNeverPull", "not present with pull policy of Never", ImageNotFound),
        ("InvalidImageName", "", ImageNotFound),
        ("ErrImagePull", "failed to resolve reference: registry/x:1: not found", ImageNotFound),
        ("ImagePullBackOff", "pull access denied", ImagePullFailed),
        ("ErrImagePull", "registry/x@sha256:9403ab401c: dial tcp: i/o timeout", None),
        ("ErrImagePull", "unexpected status from GET request: 401", ImagePullFailed),
        ("CreateContainerError", "no such user", StartFailed),
        ("ErrImagePull", "dial tcp: connection refused", None),
        ("ContainerCreating", "", None),
    ],
)
def test_what_no_waiting_mends_is_told_from_what_it_may(
    reason: str, message: str, kind: type[ExecutorError] | None
) -> None:
    found = trouble(pod({"waiting": {"reason": reason, "message": message}}, "Pending"))
    assert (type(found) if found is not None else None) is kind


def test_a_full_cluster_says_so() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    assert waits_for(pod(None, "Pending", conditions=[condition])) == "Unschedulable: 0/2 nodes"


@pytest.mark.parametrize("outside", [False, True])
def test_a_pods_deadline_is_its_jobs_timeout_unless_the_job_had_ended(outside: bool) -> None:
    found = terminated(3, f"{_BORN}\n{_EXITED_3}\n", reason="Error")
    found.status.reason = "DeadlineExceeded"
    report = report_of(found)
    report.outside = outside
    end = ended(found, report, killed=False)
    assert end is not None
    assert (end.code, end.lost, end.stopped_by) == (3, None, "deadline" if outside else None)


def test_a_job_that_a_deadline_killed_has_timed_out() -> None:
    found = terminated(137, _BORN)
    found.status.reason = "DeadlineExceeded"
    end = ended(found, report_of(found), killed=False)
    assert end is not None
    assert (end.code, end.signal, end.killed, end.lost, end.stopped_by) == (137, 9, True, None, "deadline")
