"""A further command in a guest: `dms-vm-exec`, a session of the shim's as on every engine, which asks the guest for it.

The guest's agent runs it in the job's namespaces, in a control group of its own by which all of it can be killed, with
the capabilities and limits of the job (docs/protocol.md, section 10).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from ..engine import Command, Execution, Handle
from ..errors import ExecutionNotRunning
from ..images.users import User
from ..limits import Limits
from ..supervisor import binary
from ..supervisor.session import Session, SessionSpec, open_session
from ..typed import known
from . import guest
from .files import GuestFiles, user_inside
from .host import VmHost
from .launch import filter_of, in_memory
from .plan import JobProcess
from .standing import is_standing

__all__ = ["check_not_paused", "open_exec"]


async def open_exec(x: Execution, h: Handle, command: Command, *, host: VmHost, group: str, state_dir: Path) -> Session:
    """Returns once the command runs. Raises `StartFailed`, `ExecutionNotRunning`."""
    process = msgspec.convert(h.state.get("process", {}), known(JobProcess))
    await asyncio.to_thread(check_not_paused, x, host, group)
    user = process.user
    if command.user is not None:
        user = await user_inside(GuestFiles(x.folder, state_dir), command.user)
    return await open_session(lambda: _spec(x, process, user, command, state_dir), x.folder)


def check_not_paused(x: Execution, host: VmHost, group: str) -> None:
    """Nothing in a VM that stands still can answer. Raises `ExecutionNotRunning`. Blocks."""
    if is_standing(host, group):
        raise ExecutionNotRunning(
            f"execution {x.id} is paused", status="paused", mend="Resume it first", execution_id=x.id
        )


def _spec(x: Execution, process: JobProcess, user: User, command: Command, state_dir: Path) -> SessionSpec:
    environment = dict(process.environment)
    if environment.get("HOME") == process.user.home:
        environment["HOME"] = user.home
    terminal = {"TERM": "xterm"} if command.terminal is not None else {}
    told = guest.GuestJob(
        argv=command.argv,
        environment={**environment, **terminal, **command.environment},
        directory=command.working_directory or process.directory,
        user=user,
        hostname="-",
        limits=Limits(),
        has_input=True,
        seccomp=filter_of(state_dir),
        terminal=command.terminal,
    )
    configuration = in_memory("command", guest.encode(told))
    try:
        folder = os.open(x.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BaseException:
        os.close(configuration)
        raise
    argv = [str(binary.vm_exec_path(state_dir))]
    if command.terminal is not None:
        argv += ["-t", "{}x{}".format(*command.terminal)]
    passed = [configuration, folder]
    return SessionSpec(argv, passed, group="", owner=None, terminal=command.terminal is not None)
