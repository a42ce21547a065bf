"""How the daemon's things are called that are ours, and what is bound where in a container."""

from __future__ import annotations

__all__ = [
    "CALLS",
    "EXECUTOR",
    "INIT",
    "INPUT",
    "REPORT",
    "SCRIPTS",
    "SCRIPTS_ROOM",
    "SCRIPTS_SOURCE",
    "TOKEN",
    "container_name",
    "labels_of",
]

EXECUTOR, TOKEN = "dms-executor.executor", "dms-executor.token"
_EXECUTION, _JOB = "dms-executor.execution", "dms-executor.job"

# In the job's own /dev, a tmpfs, so that the image is not touched.
INIT = "/dev/.dms-executor-init"
REPORT = "/dev/.dms-executor-report"
CALLS = "/dev/.dms-executor-calls"
INPUT = "/dev/.dms-executor-input"
SCRIPTS_SOURCE = "/dev/.dms-executor-scripts-source"
SCRIPTS_ROOM = "/dev/.dms-executor-scripts"
SCRIPTS = f"{SCRIPTS_ROOM}/run"


def container_name(token: str) -> str:
    """Found again without knowing the daemon's own id."""
    return f"dms-executor-{token}"


def labels_of(executor_id: str, token: str, execution_id: str, job_id: str) -> dict[str, str]:
    """What says whose a container is."""
    return {EXECUTOR: executor_id, TOKEN: token, _EXECUTION: execution_id, _JOB: job_id}
