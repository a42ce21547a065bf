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
from pathlib import Path

from ..errors import ExecutorError
from ..programs import ENVIRONMENT, SEARCH_PATH
from ..supervisor import tether

__all__ = ["below_manager", "is_there", "scope_of"]

_log = logging.getLogger("dms_executor.cgroups")
_DEADLINE = 30.0  # a busy manager takes its time, and without the scope jobs would go beside its own cgroups
_SLICE = "system.slice"
_USERS_SLICE = "app.slice"
_SYSTEMD = "org.freedesktop.systemd1"
_LOOKS = 1000
_LOOK = 0.01
_BOOTED = "/run/systemd/system"  # https://man7.org/linux/man-pages/man3/sd_booted.3.html
# A process in a cgroup would keep its children from having controllers: the sleeper goes where the shims go. It has its
# session before the script ends, as the tether kills what is left of the script's group.
_SCRIPT = """
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "$1$own/shims" && echo $$ >"$1$own/shims/cgroup.procs" || exit 1
setsid sh -c 'sleep infinity &' </dev/null >/dev/null 2>&1
"""


async def scope_of(parent: str, mount: str, manager: str = "") -> str:
    """The scope's cgroup below `mount`, the one of version 2; empty where there is no systemd, or it makes none.

    `manager`: the cgroup of the user's own systemd, which is asked then.
    """
    if not await asyncio.to_thread(os.access, _BOOTED, os.F_OK):
        return ""
    unit = f"{parent.replace('/', '-')}.scope"
    group = f"{manager.strip('/')}/{_USERS_SLICE}/{unit}" if manager else f"{_SLICE}/{unit}"
    if await is_there(mount, group):
        return group
    why = await _made(unit, mount, bool(manager))
    # Another process may have made it at the same time.
    if await is_there(mount, group):
        return group
    _log.warning("systemd made no scope %s: %s; jobs get cgroups beside its own", unit, why or "it is not at its place")
    return ""


async def is_there(mount: str, group: str) -> bool:
    """Whether the scope lives: a cgroup ends with its unit."""
    return await asyncio.to_thread(os.access, f"{mount}/{group}/shims/cgroup.procs", os.F_OK)


async def below_manager(manager: str) -> None:
    """Moves this process, which lives in a login's scope, into one below the user's systemd: as Podman does, since from
    outside nobody but root may move into what is delegated. Stays where it is if it cannot; the end of the login then
    ends its jobs.
    """
    path = await asyncio.to_thread(shutil.which, "busctl", path=SEARCH_PATH)
    if path is None:
        return
    pid = os.getpid()
    unit = f"dms-executor-caller-{pid}-{os.urandom(4).hex()}.scope"
    argv = [path, "--user", "call", _SYSTEMD, "/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager", "StartTransientUnit"]
    argv += ["ssa(sv)a(sa(sv))", unit, "fail", "3", "PIDs", "au", "1", str(pid), "Slice", "s", _USERS_SLICE]
    argv += ["CollectMode", "s", "inactive-or-failed", "0"]
    try:
        done = await tether.run(argv, environment=_users_environment(), deadline=_DEADLINE)
        if done.code != 0:
            _log.warning("this process cannot move below its user's systemd: %s", done.complaint)
            return
        # The manager answers before it has moved it, and no event tells.
        for _ in range(_LOOKS):
            if f"{manager}/" in await asyncio.to_thread(Path("/proc/self/cgroup").read_text):
                return
            await asyncio.sleep(_LOOK)
        _log.warning("the user's systemd has not moved this process")
    except ExecutorError as error:
        _log.warning("this process cannot move below its user's systemd: %s", error)


def _users_environment() -> dict[str, str]:
    names = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    return {**ENVIRONMENT, **{name: os.environ[name] for name in names if name in os.environ}}


async def _made(unit: str, mount: str, is_users: bool) -> str:
    """Why not; empty where it was made."""
    path = await asyncio.to_thread(shutil.which, "systemd-run", path=SEARCH_PATH)
    if path is None:
        return "there is no systemd-run"
    argv = [
        path,
        *(["--user"] if is_users else []),
        "--scope",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        "--description=jobs of dms-executor",
    ]
    argv += ["--property=Delegate=yes", "--property=TimeoutStopSec=10s"]
    argv += [f"--slice={_USERS_SLICE if is_users else _SLICE}", "--", "/bin/sh", "-c", _SCRIPT, "sh", mount]
    try:
        environment = _users_environment() if is_users else ENVIRONMENT
        done = await tether.run(argv, environment=environment, deadline=_DEADLINE)
    except ExecutorError as error:
        return str(error)
    return "" if done.code == 0 else done.stderr.decode("utf-8", "replace").strip() or f"code {done.code}"
