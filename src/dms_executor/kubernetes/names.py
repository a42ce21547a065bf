"""How the cluster's things are called that are ours, and what is mounted where in a pod."""

from __future__ import annotations

import re

__all__ = [
    "CONTAINER",
    "EXECUTOR",
    "HELD",
    "INIT",
    "INIT_FOLDER",
    "POD",
    "REPORT",
    "ROOM",
    "TOKEN",
    "annotations_of",
    "labels_of",
    "pod_name",
]

_PREFIX = "dms-executor/"
EXECUTOR, TOKEN = _PREFIX + "executor", _PREFIX + "token"
_EXECUTION, _JOB, _NETWORK = _PREFIX + "execution", _PREFIX + "job", _PREFIX + "network"

CONTAINER = "job"
# In the job's own /dev, a tmpfs, so that the image is not touched.
INIT_FOLDER = "/dev/.dms-executor"
INIT = f"{INIT_FOLDER}/dms-init"
POD = f"{INIT_FOLDER}/dms-pod"
"""What is executed beside the job for whoever asks for something in there."""
ROOM = "/dev/.dms-executor-room"
"""A folder in memory, for what the job is handed with its go."""
HELD = "/dev/.dms-executor-held"
"""A folder of which the job's init holds a file as long as its container lives."""
REPORT = "/dev/termination-log"
"""What the kubelet reads at most 4 KiB of, once the container has ended, into the pod's status."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def pod_name(token: str) -> str:
    """Found again without knowing the cluster's own uid."""
    return f"dms-executor-{token}"


def labels_of(executor_id: str, token: str, execution_id: str, job_id: str, network: str) -> dict[str, str]:
    """What says whose a pod is. An id that is no label's value stands in the annotations alone."""
    ids = {_EXECUTION: execution_id, _JOB: job_id, _NETWORK: network}
    valid = {name: value for name, value in ids.items() if _VALUE.fullmatch(value)}
    return {"app.kubernetes.io/managed-by": "dms-executor", EXECUTOR: executor_id, TOKEN: token, **valid}


def annotations_of(execution_id: str, job_id: str) -> dict[str, str]:
    """The ids, whole."""
    return {_EXECUTION: execution_id, _JOB: job_id}
