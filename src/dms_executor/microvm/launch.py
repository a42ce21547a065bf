"""From a plan to all that the shim is told: the monitor's command line, opened descriptors, the guest's configuration.

Every host path is opened once more here and compared with what was granted; from here on only descriptors count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..engine import EngineContext, Execution
from ..errors import EngineUnavailable, InvalidRequest
from ..images import command_of
from ..images.job import directory_of, environment_of
from ..images.params import ImageParams
from ..images.users import resolve_user
from ..networks.connecting import NAMESPACE
from ..networks.resolving import network_files
from ..policy import Grant, reopen
from ..programs import ENVIRONMENT
from ..scripts import encoded_scripts
from ..seccomp import compiled
from ..supervisor import binary, spec
from ..supervisor.lent import Lent
from ..supervisor.spawning import mapped
from ..supervisor.suspended import RECORD, Suspended
from ..targets import landed
from ..volumes import Volumes
from . import guest
from .drives import Drives, drives_of
from .groups import join_files
from .host import VmHost
from .network import ROOM, GuestNetwork
from .plan import FOLDER, MEMORY, JobProcess, Plan

__all__ = [
    "LOADED",
    "Launch",
    "Monitor",
    "Terms",
    "assemble",
    "filter_of",
    "in_memory",
    "open_root",
    "owner_of",
    "process_of",
    "readable",
    "shim_spec",
]

_SEGMENT = 64 << 20  # bytes of one file of the log
_DRAIN = 1.0  # seconds that a stream may stay open once the job is gone
_PATIENCE = 10.0  # seconds that a guest has for its job's end once it was told to kill it
_PATIENCE_WITH_OUTPUTS = 120.0  # and for writing them
_FIRST_ID = 0x70000000  # where the users of VMs begin: nobody's
LOADED = 1900.0
"""Seconds that a saved memory may take to be read, on a slow disk: longer than native/vm_monitor.c waits for it."""
_TERMINAL = (80, 24)  # columns and rows, of a terminal whose size nobody says


class Launch(Lent):
    """A shim's specification with the descriptors that it names; `close` once the shim has them.

    `owner`: the user and group of this VM's monitor.
    """

    def __init__(self, owner: int) -> None:
        super().__init__()
        self.owner = owner
        self.spec: spec.ShimSpec


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine has its virtual machine monitor run: `argv`, its descriptors from 6 up (`passed`), and what
    `dms-vm` is told of it (`options`; docs/protocol.md, section 10). `suspends`: it can save the guest to disk.
    """

    argv: list[str]
    passed: list[int] = []
    options: list[str] = []
    suspends: bool = False


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On which a shim keeps a VM. `parent`: the cgroup of all jobs."""

    host: VmHost
    context: EngineContext
    parent: str
    stop_signal: int


def assemble(
    x: Execution,
    plan: Plan,
    params: ImageParams,
    terms: Terms,
    rootfs: Callable[[str], Path],
    monitor: Callable[[Launch, Plan, Drives], Monitor],
    guest_network: GuestNetwork | None,
    network: spec.Network | None,
    resumed: Suspended | None = None,
) -> Launch:
    """Makes the VM's cgroups and opens everything. Blocks. Closes all again on an error.

    `resumed`: the guest goes on with what it was told when it began.
    """
    launch = Launch(owner_of(x.token))
    try:
        lower = launch.keep(open_root(plan.root, plan.digest, rootfs))
        plan = msgspec.structs.replace(plan, volumes=landed(lower, plan.volumes))
        drives = drives_of(plan.volumes, x.folder / FOLDER)
        request = x.request
        configuration, stdin, has_input = b"", None, request.stdin_open or request.tty
        if resumed is None:
            job = _job(x, plan, params, lower, drives, filter_of(terms.context.state_dir), guest_network)
            configuration, stdin, has_input = guest.encode(job), _stdin(launch, x, plan), job.has_input
        told = shim_spec(
            launch,
            x,
            monitor(launch, plan, drives),
            host=terms.host,
            context=terms.context,
            parent=terms.parent,
            stop_signal=terms.stop_signal,
            configuration=configuration,
            stdin=stdin,
            has_input=has_input,
            terminal=(request.tty_size or _TERMINAL) if request.tty else None,
            patience=_PATIENCE_WITH_OUTPUTS if drives.outputs else _PATIENCE,
        )
        told = msgspec.structs.replace(told, network=network, room=ROOM if network is not None else None)
        launch.spec = going_on(told, resumed) if resumed is not None else told
    except OSError as error:
        launch.close()
        raise mapped(error, "the microVM cannot be prepared") from error
    except BaseException:
        launch.close()
        raise
    return launch


def going_on(told: spec.ShimSpec, saved: Suspended) -> spec.ShimSpec:
    """For one that was saved: its timeout went on, and what it came from goes once it has it."""
    left = saved.left(told.timeout)
    return msgspec.structs.replace(
        told,
        timeout=None if left is None else max(left, 0.001),
        start=LOADED,
        resumed=saved.started_at,
        forget=[RECORD, f"{FOLDER}/{MEMORY}"],
    )


def _job(
    x: Execution,
    plan: Plan,
    params: ImageParams,
    root: int,
    drives: Drives,
    seccomp: bytes,
    network: GuestNetwork | None,
) -> guest.GuestJob:
    request = x.request
    hostname = params.hostname or x.token[:12]
    user = resolve_user(root, plan.image.user if params.user is None else params.user)
    return guest.GuestJob(
        argv=command_of(plan.image, params.entrypoint, params.cmd),
        environment=environment_of(params, plan.image, request, user, hostname),
        directory=directory_of(params, plan.image),
        user=user,
        hostname=hostname,
        limits=plan.limits,
        has_input=bool(request.stdin) or plan.volumes.stdin is not None or request.stdin_open or request.tty,
        read_only_root=params.read_only_root,
        files=_files(hostname, request.network, network, plan.volumes),
        disk=drives.scratch,
        outputs=drives.outputs,
        volumes=drives.volumes,
        scripts=encoded_scripts(request.provision_scripts),
        seccomp=seccomp,
        terminal=(request.tty_size or _TERMINAL) if request.tty else None,
        network=network.packed if network is not None and request.network == "user" else b"",
    )


def shim_spec(
    launch: Launch,
    x: Execution,
    vm: Monitor,
    *,
    host: VmHost,
    context: EngineContext,
    parent: str,
    stop_signal: int,
    configuration: bytes,
    stdin: int | None = None,
    has_input: bool = False,
    terminal: tuple[int, int] | None = None,
    patience: float = _PATIENCE,
) -> spec.ShimSpec:
    """`parent`: the cgroup of all jobs. `configuration`: what the guest's agent is told. `patience`: seconds that a
    guest has for its job's end. Makes the VM's cgroups. Blocks.
    """
    group = host.job_group(parent, x.token)
    freezer = host.cgroups.freezer(group)
    argv = [str(binary.vm_path(context.state_dir)), *(["-i"] if has_input else [])]
    if terminal is not None:
        argv += ["-t", "{}x{}".format(*terminal)]
    if x.request.network == "user":
        argv += ["-N", f"{ROOM}/{NAMESPACE}"]
    argv += vm.options
    for file in join_files(host, group):
        argv += ["-j", file]
    folder = launch.keep(os.open(x.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    passed = [
        launch.keep(os.open(x.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)),
        launch.keep(in_memory("guest", configuration)),
        *vm.passed,
    ]
    return spec.ShimSpec(
        argv=[*argv, "--", *vm.argv],
        environment=ENVIRONMENT,
        folder=folder,
        cgroup_join=host.joins,
        stdin=stdin,
        passed=passed,
        pidfile="pid",
        timeout=x.request.timeout,
        stop_signal=stop_signal,
        grace=context.grace,
        log_cap=context.log_cap,
        segment=max(1, min(context.log_cap // 4, _SEGMENT)),
        rmdirs=[file.rpartition("/")[0] for file in join_files(host, group)],
        sync=context.durable,
        drain=_DRAIN,
        thaw=[(freezer[0], freezer[2])] if freezer else [],
        input="terminal" if x.request.tty else "pipe" if x.request.stdin_open else None,
        patience=patience,
        suspends=vm.suspends,
    )


def owner_of(token: str) -> int:
    """The user and group of one VM's monitor: what breaks out of a guest meets no other VM of the same user."""
    return _FIRST_ID + int(token[:8], 16) % (1 << 27)


def process_of(x: Execution, plan: Plan, params: ImageParams, rootfs: Callable[[str], Path]) -> JobProcess:
    """What further commands have from the job. Raises `StartFailed` (no such user), `PolicyDenied`. Blocks."""
    root = open_root(plan.root, plan.digest, rootfs)
    try:
        user = resolve_user(root, plan.image.user if params.user is None else params.user)
    finally:
        os.close(root)
    public = msgspec.structs.replace(x.request, secret_environment={})
    return JobProcess(
        user=user,
        environment=environment_of(params, plan.image, public, user, params.hostname or x.token[:12]),
        directory=directory_of(params, plan.image),
        root=plan.root,
        digest=plan.digest,
    )


def filter_of(state_dir: Path) -> bytes:
    """What a job's own kernel lets it call: the same as on a shared one. Raises `EngineUnavailable`. Blocks."""
    try:
        fd = compiled(state_dir / "seccomp")
    except (OSError, ValueError) as error:
        raise EngineUnavailable(f"the seccomp filter cannot be made: {error}", mend="Install libseccomp2") from error
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


def open_root(root: Grant | None, digest: str | None, rootfs: Callable[[str], Path]) -> int:
    """The root's folder on the host: the granted one, or the image's. Raises `PolicyDenied`. Blocks."""
    if root is not None:
        return reopen(root, field="$.engine_spec.params.image").fd
    return os.open(rootfs(digest or ""), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _files(hostname: str, network: str, has: GuestNetwork | None, volumes: Volumes) -> dict[str, bytes]:
    """What Docker writes below /etc; what a volume covers is the volume's."""
    covered = {mount.target for mount in volumes.mounts}
    written = network_files(hostname, network, has.address if has is not None else "")
    found = {f"/etc/{name}": data for name, data in written.items()}
    return {path: data for path, data in found.items() if not {path, "/etc"} & covered}


def readable(path: str) -> int:
    """Opened, and to be opened anew by the monitor's own user: what lies in our cache is in a folder of ours alone."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if not mode & 0o004:
            os.fchmod(fd, mode | 0o044)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _stdin(launch: Launch, x: Execution, plan: Plan) -> int | None:
    if plan.volumes.stdin is not None:
        fd = launch.keep(reopen(plan.volumes.stdin, field="$.stdin_file").fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidRequest("stdin_file is no regular file", path="$.stdin_file", mend="Name a file")
        return fd
    return launch.keep(in_memory("stdin", x.request.stdin)) if x.request.stdin else None


def in_memory(name: str, data: bytes) -> int:
    """In memory: what a job is told may be secret, and is gone with the last descriptor."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
