"""From a plan to all that the shim is told: folders, `config.json`, opened descriptors, mounts, cgroups.

Every host path is opened once more here and compared with what was granted; from here on only descriptors count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ..engine import EngineContext, Execution
from ..errors import EngineUnavailable, InvalidRequest, StartFailed
from ..images.users import User, resolve_user
from ..networks.resolving import network_files
from ..policy import reopen
from ..programs import ENVIRONMENT
from ..seccomp import compiled, load_profile, oci_form
from ..supervisor import binary, spec
from ..supervisor.lent import Lent
from ..supervisor.spawning import mapped
from ..targets import landed
from ..volumes import RESERVED_TARGETS
from .accounts import check_accounts
from .bound_nodes import check_nodes
from .bundle import oci_config, volume_path
from .devices import equipped, joined, shim_mounts
from .host import Host
from .idranges import COUNT, IdRange, allocate
from .plan import Plan
from .process import PUBLIC, process_of
from .provision import script_mount, scripts_memory
from .room import SYSFS
from .rootless import Rootless
from .runtime import run_argv, state_folder
from .shadow import shadow
from .spec import OciParams, OciSettings
from .userns import check_user

__all__ = ["Launch", "assemble", "make_layer"]

_SEGMENT = 64 << 20  # bytes of one file of the log
_DRAIN = 1.0  # seconds that a stream may stay open once the job is gone
_REPORT_FD = 3
_FIRST_PASSED = 4
_TERMINAL = (80, 24)  # columns and rows, of a terminal whose size nobody says


class Launch(Lent):
    """A shim's specification with the descriptors that it names; `close` once the shim has them."""

    def __init__(self) -> None:
        super().__init__()
        self.spec: spec.ShimSpec
        self.ids: IdRange | None = None
        self.kept: dict[str, list[str]] = {}


def assemble(
    x: Execution,
    plan: Plan,
    params: OciParams,
    *,
    host: Host,
    context: EngineContext,
    settings: OciSettings,
    stop_signal: int,
    rootfs: Callable[[str], Path],
    with_userns: bool,
    network: spec.Network | None = None,
) -> Launch:
    """Makes folders and files in `x.folder` and opens everything. Blocks. Closes all again on an error.

    `with_userns`: with a range of ids of its own; raises `Unmapped` where its user has none of them.
    """
    launch = Launch()
    try:
        if with_userns:
            group = host.job_group(settings.cgroup_parent, x.token)
            launch.ids = allocate(group, lambda other: bool(host.cgroups.processes(other)))
            launch.keep(launch.ids.fd)
        lower = launch.keep(_open_root(plan, rootfs))
        plan = msgspec.structs.replace(plan, volumes=landed(lower, plan.volumes))
        check_accounts(lower, plan.volumes)
        mounts = [
            *_system_mounts(launch, x, host),
            *_root_mounts(launch, x.folder, plan, lower, host.rootless),
            *_volume_mounts(launch, plan),
        ]
        user = _user(plan, params, lower, launch.ids, host.rootless)
        mounts += _device_mounts(launch, plan, user, host.rootless)
        _write_bundle(x, plan, params, host, context, settings, user, launch)
        bundle = launch.keep(_folder(x.folder / "bundle"))
        mounts.append(spec.Bind(fd=bundle, target="bundle", recursive=False, idmapped=with_userns))
        passed: list[int] = []
        init = os.open(binary.init_path(context.state_dir), os.O_PATH | os.O_CLOEXEC)
        mounts.append(spec.Bind(fd=launch.keep(init), target="init", recursive=False))
        if x.request.init:
            passed.append(launch.keep(_filter(context, settings)))
        if x.request.provision_scripts:
            passed.append(launch.keep(scripts_memory(x.request.provision_scripts)))
        home = launch.keep(os.open(x.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        told = _shim_spec(x, home, host, context, settings, stop_signal, mounts, passed, _stdin(launch, x, plan))
        if launch.ids is not None:
            told = msgspec.structs.replace(told, ids=(launch.ids.first, COUNT), hold=launch.ids.fd)
        launch.spec = msgspec.structs.replace(told, network=network)
    except OSError as error:
        launch.close()
        raise mapped(error, "the container cannot be prepared") from error
    except BaseException:
        launch.close()
        raise
    return launch


def _shim_spec(
    x: Execution,
    folder: int,
    host: Host,
    context: EngineContext,
    settings: OciSettings,
    stop_signal: int,
    mounts: list[Any],
    passed: list[int],
    stdin: int | None,
) -> spec.ShimSpec:
    group = host.job_group(settings.cgroup_parent, x.token)
    freezer = host.cgroups.freezer(group)
    umounts = host.hidden
    # Beside version 1 the runtimes place nothing in version 2: the shim must be out before it makes a child.
    unified = tuple(f"{mount}/" for mount in host.cgroups.unified_mounts)
    early = [file for file in host.joins if file.startswith(unified)] if unified else []
    preserved = 1 + len(passed) if x.request.init else 0
    return spec.ShimSpec(
        argv=run_argv(
            host.runtime, x.folder, x.token, preserved, room=host.room, network=x.request.network, options=host.options
        ),
        environment=ENVIRONMENT,
        folder=folder,
        cgroup_join=[file for file in host.joins if file not in early],
        cgroup_join_first=early,
        cgroup_touch=host.joins[-1] if host.joins else host.cgroups.own_procs(),
        room=host.room,
        umounts=umounts,
        mounts=mounts,
        stdin=stdin,
        passed=passed,
        report=x.request.init,
        pidfile="pid",
        timeout=x.request.timeout,
        stop_signal=stop_signal,
        grace=context.grace,
        log_cap=context.log_cap,
        segment=max(1, min(context.log_cap // 4, _SEGMENT)),
        usage=[spec.UsageSource(key=s.key, path=s.path, field=s.field) for s in host.cgroups.usage(group)],
        rmdirs=host.cgroups.folders(group, without=umounts),
        sync=context.durable,
        drain=_DRAIN,
        thaw=[(freezer[0], freezer[2])] if freezer else [],
        forget=_secret_files(x, state_folder(host.runtime, x.folder, host.room)),
        userns=host.rootless.maps if host.rootless is not None else None,
        input="terminal" if x.request.tty else "pipe" if x.request.stdin_open else None,
    )


def _secret_files(x: Execution, state: str) -> list[str]:
    """The runtime's configuration, which it has read by then, and the copies that crun and runsc keep."""
    if not x.request.secret_environment:
        return []
    return ["bundle/config.json", f"{state}/{x.token}/config.json", f"{state}/{x.token}_sandbox:{x.token}.state"]


def _write_bundle(
    x: Execution,
    plan: Plan,
    params: OciParams,
    host: Host,
    context: EngineContext,
    settings: OciSettings,
    user: User,
    launch: Launch,
) -> None:
    request = x.request
    hostname = params.hostname or x.token[:12]
    process = equipped(process_of(params, plan.image, request, user, hostname), plan.devices)
    flavour = host.runtime.flavour
    processes = plan.limits.pids if flavour.own_kernel else None
    config = oci_config(
        room=host.room,
        process=process.to_oci(
            filter_fd=_FIRST_PASSED if request.init else None,
            scripts_fd=_FIRST_PASSED + 1 if request.provision_scripts else None,
            init=request.init,
            processes=processes,
            terminal=(request.tty_size or _TERMINAL) if request.tty else None,
        ),
        hostname=hostname,
        network=request.network,
        cgroup=None if host.without_cgroups else host.job_group(settings.cgroup_parent, x.token),
        limits=flavour.on_host(plan.limits),
        volumes=plan.volumes,
        devices=plan.devices,
        read_only_root=params.read_only_root,
        seccomp=None if request.init else oci_form(load_profile(settings.seccomp)),
        swap=host.cgroups.swap,
        first_id=launch.ids.first if launch.ids is not None else None,
        is_root=host.rootless is None,
        kept=launch.kept if host.rootless is not None else {},
    )
    if request.provision_scripts:
        config["mounts"].append(script_mount(user))
    bundle = x.folder / "bundle"
    bundle.mkdir(mode=0o711, exist_ok=True)
    for name, data in network_files(hostname, request.network).items():
        _write(bundle / name, data, 0o644)
    _write(bundle / "config.json", msgspec.json.encode(config), 0o600)
    if request.secret_environment:
        # What a further command is made from once the other file is gone.
        public = msgspec.structs.replace(request, secret_environment={})
        config["process"] = process_of(params, plan.image, public, user, hostname).to_oci(filter_fd=None, init=False)
        _write(bundle / PUBLIC, msgspec.json.encode(config), 0o600)


def _user(plan: Plan, params: OciParams, lower: int, ids: IdRange | None, rootless: Rootless | None) -> User:
    user = joined(resolve_user(lower, plan.image.user if params.user is None else params.user), plan.devices)
    if ids is not None:
        check_user(user)
    if rootless is not None:
        rootless.check_user(user)
    return user


def _open_root(plan: Plan, rootfs: Callable[[str], Path]) -> int:
    if plan.root is not None:
        granted = reopen(plan.root, field="$.engine_spec.params.image")
        return granted.fd
    return _folder(rootfs(plan.digest or ""))


def _system_mounts(launch: Launch, x: Execution, host: Host) -> list[Any]:
    if (launch.ids is None and host.rootless is None) or x.request.network != "host":
        return []
    # What lies on the mounts of a namespace that is not one's own cannot be uncovered: all of them, or none.
    whole = host.rootless is not None
    return [spec.Bind(fd=launch.keep(_folder(Path("/sys"))), target=SYSFS, read_only=True, recursive=whole)]


def _root_mounts(launch: Launch, folder: Path, plan: Plan, lower: int, rootless: Rootless | None) -> list[Any]:
    mounts: list[Any] = [spec.Bind(fd=lower, target="lower", recursive=False, idmapped=launch.ids is not None)]
    if plan.limits.disk is not None:
        image = os.open(folder / "disk.img", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        mounts.append(spec.Loop(fd=launch.keep(image), target="layer"))
    else:
        make_layer(folder / "layer", lower, rootless)
        layer = launch.keep(_folder(folder / "layer"))
        mounts.append(spec.Bind(fd=layer, target="layer", read_only=False, recursive=False))
    return [*mounts, spec.Overlay(target="root", lower="lower", upper="layer/upper", work="layer/work")]


def make_layer(layer: Path, lower: int, rootless: Rootless | None = None) -> None:
    """The writable layer. An overlay shows the upper one's owner and mode, so that is made like the image's.

    What the runtime mounts on `/proc`, `/sys` and `/dev` must land there: a folder in the upper layer hides whatever
    symlink the image has in its place, however late it is put there.
    """
    status = os.fstat(lower)
    for name in ("", "upper", "work"):
        (layer / name).mkdir(mode=0o700, exist_ok=True)
    upper = layer / "upper"
    for reserved in RESERVED_TARGETS:
        folder = upper / reserved.lstrip("/")
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    if rootless is not None:
        # The owner comes from the shim, which is root of a namespace.
        shadow(upper, lower, rootless.knows)
    elif (status.st_uid, status.st_gid) != (0, 0):
        os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(stat.S_IMODE(status.st_mode))


def _volume_mounts(launch: Launch, plan: Plan) -> list[Any]:
    mounts = []
    for index, mount in enumerate(plan.volumes.mounts):
        if mount.grant is None:
            continue
        granted = reopen(mount.grant, field=f"{mount.field}.source")
        fd = launch.keep(granted.fd)
        launch.kept[volume_path(index)] = _locked(fd)
        mounts.append(
            spec.Bind(
                fd=fd,
                target=volume_path(index),
                read_only=mount.read_only,
                recursive=granted.is_dir,
                idmapped=launch.ids is not None,
            )
        )
    return mounts


def _device_mounts(launch: Launch, plan: Plan, user: User, rootless: Rootless | None) -> list[Any]:
    if rootless is not None:
        check_nodes(plan.devices, rootless, user)
    mounts = shim_mounts(plan.devices, user, launch.keep)
    launch.kept |= {mount.target: _locked(mount.fd) for mount in mounts if isinstance(mount, spec.Bind)}
    return mounts


def _locked(fd: int) -> list[str]:
    """What an ordinary user's runtime may not take away from the mount that `fd` lies on: mount_namespaces(7)."""
    flags = os.fstatvfs(fd).f_flag
    known = (("noexec", os.ST_NOEXEC), ("nodev", os.ST_NODEV), ("ro", os.ST_RDONLY))
    return [name for name, flag in known if flags & flag]


def _filter(context: EngineContext, settings: OciSettings) -> int:
    try:
        return compiled(context.state_dir / "seccomp", settings.seccomp)
    except (OSError, ValueError) as error:
        raise EngineUnavailable(
            f"the seccomp filter cannot be made: {error}", mend="Install libseccomp2, or mend the setting `seccomp`"
        ) from error


def _stdin(launch: Launch, x: Execution, plan: Plan) -> int | None:
    if plan.volumes.stdin is not None:
        # Left O_PATH: the shim opens it where nobody can write to it.
        fd = launch.keep(reopen(plan.volumes.stdin, field="$.stdin_file").fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidRequest("stdin_file is no regular file", path="$.stdin_file", mend="Name a file")
        return fd
    if not x.request.stdin:
        return None
    # In memory: what a job is told may be secret, and is gone with the last descriptor.
    fd = launch.keep(os.memfd_create("stdin", os.MFD_CLOEXEC))
    data = memoryview(x.request.stdin)
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _folder(path: Path) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StartFailed(f"{path} cannot be opened: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
