"""What must not be left on the host once the executions of a state folder have ended."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path


def processes(state: Path) -> list[str]:
    """Shims, runtimes and inits whose command line or open folder belongs to a state folder."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            opened = os.listdir(f"/proc/{pid}/fd") if "dms-shim" in command else []
            shim = any(_target(f"/proc/{pid}/fd/{fd}").startswith(f"{state}/") for fd in opened)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if shim or (str(state) in command and "caller.py" not in command):
            found.append(f"{pid}: {command}")
    return found


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""  # other tests' shims have folders deeper than a path can be told


def mounts(state: Path) -> list[str]:
    """Mounts of this namespace beneath a state folder or of a shim's room."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if f" {state}/" in line or " /run/dms-executor" in line]


KEPT = {
    "request.json",
    "handle.json",
    "started.json",
    "intent.json",
    "result.json",
    "marks.json",
    "exit",
    "log",
    "shim.log",
}


def files(state: Path) -> list[str]:
    """What lies in the folders of executions beside records and logs."""
    return [str(path) for path in state.glob("executions/*/*") if path.name not in KEPT]


def cgroups(tokens: set[str]) -> list[str]:
    """Control groups named after executions."""
    # os.walk passes over what goes away under it; Path.glob does not.
    levels = os.walk("/sys/fs/cgroup")
    return [f"{level}/{name}" for level, names, _ in levels for name in names if name in tokens]


async def gone(state: Path, tokens: set[str], within: float = 5.0) -> list[str]:
    """What is left after at most `within` seconds: a shim ends a moment after it has told the end."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        left = await asyncio.to_thread(lambda: processes(state) + mounts(state) + cgroups(tokens) + files(state))
        if not left or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(0.02)
