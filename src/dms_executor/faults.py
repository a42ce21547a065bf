"""Named points between two durable steps at which the tests kill this process.

`DMS_EXECUTOR_FAULT=<point>` in the environment makes the process SIGKILL itself when it reaches that point: what no
test could time from outside. Without the variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

__all__ = ["POINTS", "point"]

_chosen = os.environ.get("DMS_EXECUTOR_FAULT", "")

POINTS = (
    "claimed",
    "request_written",
    "prepared",
    "created",
    "created_committed",
    "started",
    "running_committed",
    "watched",
    "ended_committed",
    "collected",
    "finished_committed",
    "destroyed",
    "intent_committed",
    "stop_in_hand",
    "saving_committed",
    "saved",
    "saved_committed",
    "restored",
    "restored_committed",
    "removing_committed",
    "folder_removed",
)


def point(name: str) -> None:
    """Ends this process here if the tests ask for it."""
    if name == _chosen:
        os.kill(os.getpid(), signal.SIGKILL)
