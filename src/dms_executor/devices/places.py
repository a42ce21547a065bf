"""Where in a job no device may be put: what is the job's own there, on every engine."""

from __future__ import annotations

__all__ = ["is_jobs_own"]

# What runtimes make in every /dev, and what our own mounts are.
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd", "core")
_TAKEN = frozenset({"/dev", *(f"/dev/{name}" for name in (*_NODES, "stdin", "stdout", "stderr"))})
_SYSTEM = ("/proc", "/sys")
_OURS = "/dev/.dms-executor-"  # init and provision scripts


def is_jobs_own(target: str) -> bool:
    """Whether a path inside is taken."""
    system = any(target == place or target.startswith(f"{place}/") for place in _SYSTEM)
    return system or target in _TAKEN or target.startswith(_OURS)
