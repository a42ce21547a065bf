"""A further command in a guest: `dms-vm-exec`, a session of the shim's as on every engine, which asks the guest for it.

The guest's agent runs it in the job's namespaces, in a control group of its own by which all of it can be killed, with
the capabilities and limits of the job (docs/protocol.md, section 10).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..engine import Command, Execution, Handle
from ..errors import ExecutionNotRunning, NotSupported
from ..images.users import resolve_user
from ..limits import Limits
from ..supervisor import binary
from ..supervisor.session import Session, SessionSpec, open_session
from ..typed import known
from . import guest
from .host import VmHost
from .launch import filter_of, in_memory, open_root
from .plan import JobProcess

__all__ = ["open_exec"]


async def open_exec(
    x: Execution,
    h: Handle,
    command: Command,
    *,
    engine: str,
    host: VmHost,
    group: str,
    state_dir: Path,
    rootfs: Callable[[str], Path],
) -> Session:
    """Returns once the command runs. Raises `StartFailed`, `ExecutionNotRunning`, `NotSupported`."""
    if command.terminal is not None:
        raise NotSupported(
            f"engine {engine} gives no terminal yet", engine=engine, what="tty", mend="Leave it out", execution_id=x.id
        )
    process = msgspec.convert(h.state.get("process", {}), known(JobProcess))
    return await open_session(lambda: _spec(x, process, command, host, group, state_dir, rootfs), x.folder)


def _spec(
    x: Execution,
    process: JobProcess,
    command: Command,
    host: VmHost,
    group: str,
    state_dir: Path,
    rootfs: Callable[[str], Path],
) -> SessionSpec:
    if host.cgroups.is_frozen(group):
        raise ExecutionNotRunning(
            f"execution {x.id} is paused", status="paused", mend="Resume it first", execution_id=x.id
        )
    user, environment = process.user, dict(process.environment)
    if command.user is not None:
        root = open_root(process.root, process.digest, rootfs)
        try:
            user = resolve_user(root, command.user)
        finally:
            os.close(root)
        if environment.get("HOME") == process.user.home:
            environment["HOME"] = user.home
    told = guest.GuestJob(
        argv=command.argv,
        environment={**environment, **command.environment},
        directory=command.working_directory or process.directory,
        user=user,
        hostname="-",
        limits=Limits(),
        has_input=True,
        seccomp=filter_of(state_dir),
    )
    configuration = in_memory("command", guest.encode(told))
    try:
        folder = os.open(x.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BaseException:
        os.close(configuration)
        raise
    argv = [str(binary.vm_exec_path(state_dir))]
    return SessionSpec(argv, [configuration, folder], group="", owner=None, terminal=False)
