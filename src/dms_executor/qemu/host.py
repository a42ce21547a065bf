"""What this host offers to the engine: looked at once per process, and the reason if it cannot be used."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from pathlib import Path

import msgspec

from ..cgroups import Cgroups, detect, make_shims_group
from ..cgroups.scope import scope_of
from ..errors import EngineUnavailable, InvalidRequest
from ..microvm import kernel as kernels
from ..microvm.clock import tsc_khz
from ..microvm.kernel import Kernel
from ..planned import missing_kvm
from ..types import ByteSize, Capacity
from .spec import QemuSettings
from .trial import trial

__all__ = ["Host", "capacity", "find_kernel", "prepare_host"]

_TRIAL_SECONDS = 10.0
_KERNEL_IMAGE = "DMS_EXECUTOR_KERNEL_IMAGE"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """`why`: why it is emulation and not KVM; empty with KVM. `joins`: the files by which a shim leaves its caller's
    cgroups. `scope`: the cgroup of our own below systemd. `group`: of /dev/kvm, 0 without.
    """

    program: str
    accelerator: str
    why: str
    cgroups: Cgroups
    joins: list[str] = []
    scope: str = ""
    kvm_group: int = 0
    tsc_khz: int | None = None

    def job_group(self, parent: str, token: str) -> str:
        """The cgroup of one VM, below each hierarchy's mount."""
        return f"{self.scope}/{token}" if self.scope else f"{parent}/{token}"


async def prepare_host(settings: QemuSettings) -> Host:
    """Makes what all executions share: the cgroup of shims and VMs. Raises `EngineUnavailable`."""
    host = await asyncio.to_thread(_look, settings)
    if host.cgroups.mode == "v2":
        scope = await scope_of(settings.cgroup_parent, host.cgroups.hierarchies[0].mount)
        host = msgspec.structs.replace(host, scope=scope)
    shims = f"{host.scope or settings.cgroup_parent}/shims"
    joins = await asyncio.to_thread(make_shims_group, host.cgroups, shims)
    return msgspec.structs.replace(host, joins=joins)


async def find_kernel(settings: QemuSettings, cache: Path) -> Kernel:
    """Of the settings, else of the environment, else an installed one. Raises `EngineUnavailable`."""
    wanted = settings.kernel_image or os.environ.get(_KERNEL_IMAGE)
    try:
        return await kernels.find(Path(wanted) if wanted is not None else None, cache)
    except InvalidRequest as error:
        raise EngineUnavailable(f"kernel_image: {error.message}", mend=error.mend) from error


def capacity(settings: QemuSettings, state_dir: Path) -> Capacity:
    """What all executions together may reserve. Blocks."""
    status = os.statvfs(state_dir)
    return Capacity(
        cpu=float(len(os.sched_getaffinity(0))),
        memory=ByteSize(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        disk=ByteSize(status.f_bavail * status.f_frsize),
    )


def _look(settings: QemuSettings) -> Host:
    """Blocks: an accelerator is known by a try."""
    if os.geteuid() != 0:
        raise EngineUnavailable(
            "the engine qemu runs as root only, so far", mend="Run it as root, or use the engine oci"
        )
    if platform.machine() != "x86_64":
        raise EngineUnavailable("the engine qemu runs on x86_64 only, so far", mend="Use the engine oci")
    name = settings.program or "qemu-system-x86_64"
    program = shutil.which(name)
    if program is None:
        raise EngineUnavailable(f"{name} is not installed", mend="apt-get install qemu-system-x86")
    why = "the settings say so" if settings.accelerator == "tcg" else _without_kvm(program)
    if why and settings.accelerator == "kvm":
        raise EngineUnavailable(f"KVM does not work: {why}", mend="Leave the setting accelerator out")
    if why:
        emulation = trial(program, "tcg", "max", _TRIAL_SECONDS)
        if emulation:
            raise EngineUnavailable(f"neither KVM ({why}) nor emulation ({emulation}) works", mend="Install QEMU again")
    return Host(
        program=program,
        accelerator="tcg" if why else "kvm",
        why=why,
        cgroups=detect(),
        kvm_group=0 if why else Path("/dev/kvm").stat().st_gid,
        tsc_khz=tsc_khz() if why else None,
    )


def _without_kvm(program: str) -> str:
    # A KVM that opens may still run no guest: one that is nested, or emulates.
    return missing_kvm() or trial(program, "kvm", "host", _TRIAL_SECONDS)
