"""Where systemd manages the control groups: a scope of our own, delegated, for shims and jobs.

Below systemd each cgroup has one writer, and what a service starts ends with it. A delegated scope is the part in which
somebody else may write, and belongs to no service: https://systemd.io/CGROUP_DELEGATION/. It lives as long as a process
is in it, so one sleeps there; it is made once a boot, and again should somebody have stopped it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

from ..errors import ExecutorError
from ..supervisor import tether
from .runtime import ENVIRONMENT, SEARCH_PATH

__all__ = ["is_there", "scope_of"]

_log = logging.getLogger("dms_executor.oci")
_DEADLINE = 30.0  # a busy manager takes its time, and without the scope jobs would go beside its own cgroups
_SLICE = "system.slice"
_BOOTED = "/run/systemd/system"  # https://man7.org/linux/man-pages/man3/sd_booted.3.html
# A process in a cgroup would keep its children from having controllers: the sleeper goes where the shims go. It has its
# session before the script ends, as the tether kills what is left of the script's group.
_SCRIPT = """
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "$1$own/shims" && echo $$ >"$1$own/shims/cgroup.procs" || exit 1
setsid sh -c 'sleep infinity &' </dev/null >/dev/null 2>&1
"""


async def scope_of(parent: str, mount: str) -> str:
    """The scope's cgroup below `mount`, the one of version 2; empty where there is no systemd, or it makes none."""
    if not await asyncio.to_thread(os.access, _BOOTED, os.F_OK):
        return ""
    unit = f"{parent.replace('/', '-')}.scope"
    group = f"{_SLICE}/{unit}"
    if await is_there(mount, group):
        return group
    why = await _made(unit, mount)
    # Another process may have made it at the same time.
    if await is_there(mount, group):
        return group
    _log.warning("systemd made no scope %s: %s; jobs get cgroups beside its own", unit, why or "it is not at its place")
    return ""


async def is_there(mount: str, group: str) -> bool:
    """Whether the scope lives: a cgroup ends with its unit."""
    return await asyncio.to_thread(os.access, f"{mount}/{group}/shims/cgroup.procs", os.F_OK)


async def _made(unit: str, mount: str) -> str:
    """Why not; empty where it was made."""
    path = await asyncio.to_thread(shutil.which, "systemd-run", path=SEARCH_PATH)
    if path is None:
        return "there is no systemd-run"
    argv = [path, "--scope", "--quiet", "--collect", f"--unit={unit}", "--description=jobs of dms-executor"]
    argv += ["--property=Delegate=yes", "--property=TimeoutStopSec=10s"]
    argv += [f"--slice={_SLICE}", "--", "/bin/sh", "-c", _SCRIPT, "sh", mount]
    try:
        done = await tether.run(argv, environment=ENVIRONMENT, deadline=_DEADLINE)
    except ExecutorError as error:
        return str(error)
    return "" if done.code == 0 else done.stderr.decode("utf-8", "replace").strip() or f"code {done.code}"
