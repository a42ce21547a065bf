"""A further command in a running container: the process that the runtime is told to start, with the job's own limits.

It is described by what the job's process was described by, so that capabilities, rlimits, no_new_privs and profile are
the same; only command, user, working directory and environment are the caller's.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from ..engine import Command, EngineContext, Execution
from ..errors import EngineUnavailable, EngineUnreachable, ExecutionNotRunning, NotSupported, StartFailed
from ..images.users import User, resolve_user
from ..seccomp import compiled
from ..supervisor.session import Session, SessionSpec, open_session
from .host import Host
from .process import INIT, PUBLIC, capabilities_of
from .runtime import exec_argv
from .spec import OciSettings

__all__ = ["open_exec"]

_BORN = 10.0  # seconds
_LOOK = 0.005
_GROUP = 4  # after the report socket; the shim puts it there, where the session has a control group of its own


async def open_exec(
    x: Execution, command: Command, host: Host, context: EngineContext, settings: OciSettings, first_id: int | None
) -> Session:
    """Returns once the command runs. Raises `StartFailed`, `ExecutionNotRunning`, `NotSupported`."""
    if "exec" in host.runtime.flavour.lacks:
        raise NotSupported(
            f"engine oci has no exec with {host.runtime.flavour.name}",
            engine="oci",
            what="exec",
            mend="Use the runtime crun or runc",
            execution_id=x.id,
        )
    await _born(x)
    return await open_session(lambda: _spec(x, command, host, context, settings, first_id), x.folder)


async def _born(x: Execution) -> None:
    """Waits for the pid of a job that has just begun to run: its runtime, which writes it, may still be at its end.

    It is the last thing that crun and runc write: what they are told of the container later, they know from then on.
    """
    try:
        async with asyncio.timeout(_BORN):
            while not await asyncio.to_thread(_says_pid, x.folder):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise EngineUnreachable("the job's first process cannot be found", execution_id=x.id) from error


def _says_pid(folder: Path) -> bool:
    try:
        return (folder / "pid").stat().st_size > 0
    except FileNotFoundError:
        return not folder.exists()  # gone with the job, which is found out below


def _spec(
    x: Execution, command: Command, host: Host, context: EngineContext, settings: OciSettings, first_id: int | None
) -> SessionSpec:
    group = host.job_group(settings.cgroup_parent, x.token)
    if host.cgroups.is_frozen(group):
        raise ExecutionNotRunning(
            f"execution {x.id} is paused", status="paused", mend="Resume it first", execution_id=x.id
        )
    process = _process(x, command, host, group)
    killable = _killable(host, group)
    passed: list[int] = []
    try:
        if x.request.init:
            passed.append(_filter(context, settings))
        wrapper = [INIT, "-w", *(("-j", str(_GROUP)) if killable else ())]
        if command.terminal is not None:
            wrapper += ["-t", "{}x{}".format(*command.terminal)]
        if passed:  # else the runtime has the profile from the container's configuration
            wrapper += ["-s", str(_GROUP + 1 if killable else _GROUP)]
        process["args"] = [*wrapper, "--", *command.argv]
        passed.append(_in_memory(msgspec.json.encode(process)))
    except BaseException:
        for fd in passed:
            os.close(fd)
        raise
    preserved = len(passed) + bool(killable)
    return SessionSpec(
        exec_argv(host.runtime, x.folder, x.token, preserved=preserved, room=host.room, options=host.options),
        passed,
        group=killable,
        owner=first_id,
        terminal=command.terminal is not None,
    )


def _killable(host: Host, group: str) -> str:
    """The job's group in the hierarchy in which all processes of a group can be found and stopped at once."""
    file = host.cgroups.freezer(group)
    return file[0].rpartition("/")[0] if file is not None else ""


def _process(x: Execution, command: Command, host: Host, group: str) -> dict[str, Any]:
    process = _of_job(x, host)
    environment = dict(entry.partition("=")[::2] for entry in process["env"])
    if command.user is not None:
        before, user = _users(x.folder, host, group, process["user"]["uid"], command.user)
        process["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups, "umask": 0o22}
        process["capabilities"] = capabilities_of(user.uid, tuple(process["capabilities"]["bounding"]))
        if environment.get("HOME") == before.home:
            environment["HOME"] = user.home
    process["env"] = [f"{name}={value}" for name, value in {**environment, **_terminal(command)}.items()]
    process["cwd"] = command.working_directory or process["cwd"]
    process["terminal"] = False
    return process


def _terminal(command: Command) -> dict[str, str]:
    """As Docker does, unless the caller says otherwise."""
    return {**({"TERM": "xterm"} if command.terminal is not None else {}), **command.environment}


def _of_job(x: Execution, host: Host) -> dict[str, Any]:
    data = _content(x.folder / "bundle" / PUBLIC)
    if data is None:
        data = _content(x.folder / "bundle" / "config.json")
    if data is None:
        raise ExecutionNotRunning("nothing is left of its container", execution_id=x.id)
    if host.runtime.flavour.copies_configuration:
        _restore(x.folder / "runtime" / x.token, data)
    process: dict[str, Any] = msgspec.json.decode(data)["process"]
    return process


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _restore(folder: Path, data: bytes) -> None:
    """The runtime's copy of the configuration, which went with the secrets that it held.

    It went before anybody heard that the job runs. The runtime may then be at its end, its `status` not yet written.
    """
    if not folder.exists() or (folder / "config.json").exists():
        return
    new = folder / f"config.json.{os.urandom(4).hex()}"
    new.write_bytes(data)
    new.rename(folder / "config.json")


def _users(folder: Path, host: Host, group: str, uid: int, wanted: str) -> tuple[User, User]:
    """The job's user and the wanted one, by the files that the container has now."""
    root = _root(folder, host, group)
    try:
        return resolve_user(root, str(uid)), resolve_user(root, wanted)
    finally:
        os.close(root)


def _root(folder: Path, host: Host, group: str) -> int:
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ExecutionNotRunning("the job has ended") from error
    # Opened first and asked then: the number may have become another process's.
    if pid in host.cgroups.processes(group):
        return root
    os.close(root)
    raise ExecutionNotRunning("the job has ended")


def _filter(context: EngineContext, settings: OciSettings) -> int:
    try:
        return compiled(context.state_dir / "seccomp", settings.seccomp)
    except (OSError, ValueError) as error:
        raise EngineUnavailable(
            f"the seccomp filter cannot be made: {error}", mend="Install libseccomp2, or mend the setting `seccomp`"
        ) from error


def _in_memory(data: bytes) -> int:
    try:
        fd = os.memfd_create("process", os.MFD_CLOEXEC)
    except OSError as error:
        raise StartFailed(f"no memory for the command's description: {error.strerror}") from error
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
