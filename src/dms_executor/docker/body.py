"""The body of the create call: from a plan to what the daemon is told.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine import Execution, merged_environment
from ..images import command_of
from ..types import PortMapping
from .devices import device_config, device_mounts
from .dialect import Dialect
from .named import volume_bind, volume_mount
from .names import CALLS, INIT, INPUT, REPORT, SCRIPTS, SCRIPTS_ROOM, SCRIPTS_SOURCE, labels_of
from .plan import Plan
from .ports import exposed, published
from .spec import DockerParams

__all__ = ["QUIET_SIGNAL", "create_body"]

QUIET_SIGNAL = 18
"""SIGCONT: what the daemon's own stop sends first. The real signal comes before it; this one only starts the grace."""

_LOG_FILES = 3
# conmon puts an empty file in the full one's place: who follows has to read one sooner than it fills another.
_LEAST_FILE = 64 << 20
_TERMINAL = (80, 24)
_PERIOD = 100_000  # microseconds, the kernel's default
# Raising an rlimit takes CAP_SYS_RESOURCE, which a daemon may lack: none is named, the daemon's own holds.


def create_body(
    x: Execution,
    plan: Plan,
    params: DockerParams,
    *,
    folder: Path,
    init: Path,
    log_cap: int,
    dialect: Dialect,
    executor_id: str,
    ports: Sequence[PortMapping],
    gives_gpus: bool,
) -> dict[str, Any]:
    """`folder`: the execution's own of this engine, `init`: the program, `gives_gpus`: see `Daemon`.

    Raises `StartFailed` without a command.
    """
    request = x.request
    argv = command_of(plan.image, params.entrypoint, params.cmd)
    # TERM as the daemon's own terminals have it. What the machine's owner wrote into a device's spec counts most.
    defaults = {"TERM": plan.image.environment.get("TERM", "xterm")} if request.tty else {}
    environment = {**merged_environment(defaults, params.environment, request), **plan.devices.environment}
    if gives_gpus and not plan.devices.by_daemon:
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"  # else any image, or request, could name them there
    body: dict[str, Any] = {
        "Image": plan.image_id,
        "Entrypoint": [*_wrapper(x, plan, counts=dialect.output == "attached"), *argv[:1]],
        "Cmd": argv[1:],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels_of(executor_id, x.token, x.id, request.job_id),
        "StopSignal": str(QUIET_SIGNAL),
        "Hostname": params.hostname or x.token[:12],
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(x, plan, params, folder, init, _log_config(dialect.log_driver, log_cap)),
    }
    named = [volume for volume in plan.volumes.mounts if volume.name is not None]
    if dialect.mounts_as_text:
        body["HostConfig"]["Binds"] = [volume_bind(volume) for volume in named]
    else:
        body["HostConfig"]["Mounts"] += [volume_mount(volume) for volume in named]
    if ports:
        body["ExposedPorts"] = exposed(ports)
        body["HostConfig"]["PortBindings"] = published(ports)
    if params.working_directory is not None:
        body["WorkingDir"] = params.working_directory
    if params.user is not None:
        body["User"] = params.user
    return body


def _wrapper(x: Execution, plan: Plan, *, counts: bool) -> list[str]:
    if not x.request.init:
        return []
    words = [INIT, "-r", REPORT, *(["-o"] if counts else [])]
    if x.request.provision_scripts:
        words += ["-p", SCRIPTS_SOURCE, SCRIPTS]
    if _has_input(x, plan):
        words += ["-i", INPUT]
    if x.request.tty:
        words += ["-t", "{}x{}".format(*(x.request.tty_size or _TERMINAL))]
    if x.request.tty or x.request.stdin_open:
        words += ["-a", CALLS]
    return [*words, "--"]


def _has_input(x: Execution, plan: Plan) -> bool:
    return bool(x.request.stdin) or plan.volumes.stdin is not None


def _host_config(
    x: Execution, plan: Plan, params: DockerParams, folder: Path, init: Path, log: dict[str, Any]
) -> dict[str, Any]:
    limits = plan.limits
    config: dict[str, Any] = {
        "NetworkMode": x.request.network,
        "Mounts": _mounts(x, plan, folder, init),
        "LogConfig": log,
        "CapDrop": ["MKNOD"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": params.read_only_root,
        "RestartPolicy": {"Name": "no"},
        "IpcMode": "private",
        "Init": False,
        "Privileged": False,
        **device_config(plan.devices),
    }
    if x.request.provision_scripts:
        config["Tmpfs"] = {SCRIPTS_ROOM: "exec,nosuid,nodev,mode=1777"}
    if limits.memory is not None:
        # Memory and swap together: none of the latter beyond the limit.
        config |= {"Memory": limits.memory, "MemorySwap": limits.memory}
    if limits.cpu is not None:
        config |= {"CpuPeriod": _PERIOD, "CpuQuota": max(1000, round(limits.cpu * _PERIOD))}
    if limits.pids is not None:
        config["PidsLimit"] = limits.pids
    if limits.disk is not None:
        config["StorageOpt"] = {"size": str(limits.disk)}
    if params.shm_size is not None:
        config["ShmSize"] = int(params.shm_size)
    return config


def _log_config(driver: str, cap: int) -> dict[str, Any]:
    if driver != "local":
        return {"Type": driver, "Config": {"max-size": str(max(cap, _LEAST_FILE))}}
    # A rotation takes the oldest file: what is left then is at least what the executor's own log may hold.
    size = max(cap // (_LOG_FILES - 1), 1 << 16)
    return {"Type": driver, "Config": {"max-size": str(size), "max-file": str(_LOG_FILES), "compress": "false"}}


def _mounts(x: Execution, plan: Plan, folder: Path, init: Path) -> list[dict[str, Any]]:
    mounts = [_bind(str(init), INIT), _bind(str(folder / "calls"), CALLS)]
    if x.request.init:
        mounts.append(_bind(str(folder / "report"), REPORT, read_only=False))
    if x.request.provision_scripts:
        mounts.append(_bind(str(folder / "scripts"), SCRIPTS_SOURCE))
    if plan.volumes.stdin is not None:
        mounts.append(_bind(plan.volumes.stdin.host_path, INPUT))
    elif x.request.stdin:
        mounts.append(_bind(str(folder / "input"), INPUT))
    for volume in plan.volumes.mounts:
        if volume.grant is not None:
            mounts.append(_bind(volume.grant.host_path, volume.target, read_only=volume.read_only))
        elif volume.name is None:
            options = {"Mode": 0o1777, **({"SizeBytes": volume.size} if volume.size is not None else {})}
            mounts.append({"Type": "tmpfs", "Target": volume.target, "TmpfsOptions": options})
    for source, target, read_only in device_mounts(plan.devices):
        mounts.append(_bind(source, target, read_only=read_only))
    return mounts


def _bind(source: str, target: str, *, read_only: bool = True) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}
