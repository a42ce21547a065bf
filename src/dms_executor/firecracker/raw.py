"""A machine of the user's own, which knows nothing of us: a kernel with a root file system, an initrd, or both.

Its console is the log, its end the job's. What it exits with nobody can know: `exit_code` is None.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..engine import EngineContext, Execution, Exit, Prepared
from ..errors import InvalidRequest, NotSupported
from ..images.params import PARAMS
from ..limits import Limits, check_least, limits_of
from ..microvm import kernel as kernels
from ..microvm.launch import Launch, owner_of, shim_spec
from ..microvm.plan import FOLDER
from ..policy import Grant, Policy, reopen
from ..supervisor.spawning import mapped
from ..typed import known
from ..types import ExecutionRequest
from .config import Drive, Interface, Machine, boot_args, document, memory_mib, vcpus
from .host import Host
from .launch import kernel_in, run_in
from .network import TAP
from .place import API, CONFIG, LOG, METADATA, Place, clear_places
from .spec import FirecrackerParams, FirecrackerSettings

__all__ = ["RawPlan", "as_told", "assemble_raw", "check_raw", "prepare_raw"]

_ENGINE = "firecracker"
_SIGTERM = 15
_OF_JOBS = ("inputs", "outputs", "stdin", "stdin_file", "stdin_open", "environment", "secret_environment")
_LACKING = (*_OF_JOBS, "provision_scripts", "ports", "devices", "tty")


class RawPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `prepare` decided, as "raw" in `Prepared.state`. `kernel`: uncompressed."""

    kernel: str
    root: Grant | None
    initrd: Grant | None
    limits: Limits


def check_raw(request: ExecutionRequest, settings: FirecrackerSettings, policy: Policy) -> tuple[Limits, list[str]]:
    """What such a machine may use, and the limits that go unenforced. Raises `NotSupported`, `InvalidRequest`."""
    for name in _LACKING:
        if getattr(request, name):
            raise _lacking(f"$.{name}")
    if request.network != "none":
        raise _lacking("$.network")
    if request.resources.gpus:
        raise _lacking("$.resources.gpus")
    policy.check_network(request.network)
    check_least(request)
    cpu = request.resources.cpu
    if cpu is not None and cpu != vcpus(cpu, 1):
        raise InvalidRequest(
            f"a machine of your own has whole processors, and {cpu:g} are none that Firecracker gives",
            path="$.resources.cpu",
            mend="One, or an even number up to 32",
        )
    # The default number of processes is for the host's sake, which has none of that machine's.
    own = ("pids",) if request.resources.pids is None else ()
    limits, unenforced = limits_of(
        request,
        policy,
        engine=_ENGINE,
        memory=2 * settings.memory << 20,
        enforced=("cpu", "memory", *own),
        reason=lambda limit: ("nobody of ours is in that machine", "Leave it out, or name an image"),
    )
    memory_mib(limits.memory or settings.memory << 20)
    return limits, unenforced


async def prepare_raw(
    x: Execution,
    params: FirecrackerParams,
    settings: FirecrackerSettings,
    policy: Policy,
    refused: Sequence[Path],
    cache: Path,
) -> Prepared:
    """Grants the files for good. Raises `PolicyDenied`, `InvalidRequest`."""
    limits, unenforced = check_raw(x.request, settings, policy)
    kernel, root, initrd = await asyncio.to_thread(granted_files, params, policy, refused)
    if kernel is None:
        raise InvalidRequest("there is no kernel_image", path=kernels.FIELD, mend="Name one")
    found = await kernels.find_granted(kernel, cache)
    await asyncio.to_thread((x.folder / FOLDER).mkdir, 0o700, exist_ok=True)
    plan = RawPlan(kernel=os.fspath(found.path), root=root, initrd=initrd, limits=limits)
    return Prepared(state={"raw": msgspec.to_builtins(plan)}, stop_signal=_SIGTERM, unenforced=unenforced)


def granted_files(
    params: FirecrackerParams, policy: Policy, refused: Sequence[Path]
) -> tuple[Grant | None, Grant | None, Grant | None]:
    """Of kernel, root and initrd, each where it is named. Blocks. Raises `PolicyDenied`, `InvalidRequest`."""
    found: list[Grant | None] = []
    for name in ("kernel_image", "root_file_system", "initrd_path"):
        path, field = getattr(params, name), f"{PARAMS}.{name}"
        if path is None:
            found.append(None)
            continue
        with policy.open(path, field=field, refused=refused) as granted:
            if not stat.S_ISREG(os.fstat(granted.fd).st_mode):
                raise InvalidRequest(f"{path!r} is no regular file", path=field, mend="Name a file")
            found.append(granted.grant)
    kernel, root, initrd = found
    return kernel, root, initrd


def assemble_raw(
    x: Execution,
    raw: dict[str, Any],
    params: FirecrackerParams,
    *,
    host: Host,
    context: EngineContext,
    settings: FirecrackerSettings,
) -> Launch:
    """The shim's specification. Blocks. Closes all again on an error."""
    plan = msgspec.convert(raw, known(RawPlan))
    launch = Launch(owner_of(x.token))
    try:
        clear_places(x.folder / FOLDER)
        place = Place(x.folder / FOLDER, x.token, launch.owner, host.program if host.jailer else None)
        place.write(CONFIG, document(_machine(place, plan, params, settings, context.state_dir)))
        options = ["-r", "-a", API]
        if params.mmds_message is not None:
            place.write(METADATA, msgspec.json.encode(params.mmds_message))
            options += ["-n", TAP, str(launch.owner)]
        launch.spec = shim_spec(
            launch,
            x,
            run_in(place, x, host, launch.owner, options),
            host=host,
            context=context,
            parent=settings.cgroup_parent,
            stop_signal=_SIGTERM,
            configuration=b"",
        )
    except OSError as error:
        launch.close()
        raise mapped(error, "the microVM cannot be prepared") from error
    except BaseException:
        launch.close()
        raise
    return launch


def as_told(exit: Exit) -> Exit:
    """Of the end of Firecracker itself: 0 is a guest that shut down or crashed, and says nothing of its job."""
    if exit.code is None or exit.lost is not None:
        return exit
    if exit.signal is not None:  # it was asked for: `dms-vm` says nothing of another's
        return msgspec.structs.replace(exit, code=None)
    lost = f"firecracker ended with {exit.code}" if exit.code else None
    return msgspec.structs.replace(exit, code=None, lost=lost)


def _machine(
    place: Place, plan: RawPlan, params: FirecrackerParams, settings: FirecrackerSettings, cache: Path
) -> Machine:
    drives = []
    if plan.root is not None:
        with reopen(plan.root, field=f"{PARAMS}.root_file_system") as granted:
            path = place.copy(granted.fd, "root.img")
        drives.append(
            Drive(name="root", path=path, read_only=params.read_only_root, root=True, rate=settings.disk_rate)
        )
    initrd = None
    if plan.initrd is not None:
        with reopen(plan.initrd, field=f"{PARAMS}.initrd_path") as granted:
            initrd = place.copy(granted.fd, "initrd")
    has_metadata = params.mmds_message is not None
    return Machine(
        kernel=kernel_in(place, Path(plan.kernel), cache),
        initrd=initrd,
        vcpus=vcpus(plan.limits.cpu or 1.0, 1),
        memory=plan.limits.memory or settings.memory << 20,
        boot_args=boot_args(["console=ttyS0", *settings.kernel_args.split()], params.kernel_args),
        drives=drives,
        interfaces=[Interface(name="eth0", tap=TAP)] if has_metadata else [],
        metadata_to=["eth0"] if has_metadata else [],
        log=place.write(LOG, b""),
    )


def _lacking(field: str) -> NotSupported:
    return NotSupported(
        f"engine {_ENGINE} does not have {field} for a machine of your own",
        engine=_ENGINE,
        what=field,
        mend="Leave it out, or name an image",
    )
