"""Taking away a job's cgroup and all that lives in it."""

from __future__ import annotations

import os
import signal
import time

from .hierarchies import Cgroups

__all__ = ["empty_group"]

_ROUNDS = 50
_PAUSE = 0.02


def empty_group(cgroups: Cgroups, group: str) -> list[str]:
    """Kills what is in the job's cgroup and removes it; returns the folders that stayed. Blocks, bounded."""
    for _ in range(_ROUNDS):
        pids = cgroups.processes(group)
        if not pids and not (busy := cgroups.remove(group)):
            return busy
        _thaw(cgroups, group)
        if not cgroups.kill(group):
            _kill_all(cgroups, group, pids)
        time.sleep(_PAUSE)  # a cgroup tells nobody that it got empty (version 1)
    return cgroups.remove(group)


def _thaw(cgroups: Cgroups, group: str) -> None:
    freezer = cgroups.freezer(group)
    if freezer is None:
        return
    try:
        with open(freezer[0], "w", encoding="ascii") as file:
            file.write(freezer[2])
    except OSError:
        return  # gone already


def _kill_all(cgroups: Cgroups, group: str, pids: set[int]) -> None:
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if pid in cgroups.processes(group):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)
