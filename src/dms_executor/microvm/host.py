"""What a host offers to every engine of microVMs: control groups, a kernel for the guests, room."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path
from typing import TypeVar

import msgspec

from ..cgroups import Cgroups, make_shims_group
from ..cgroups.scope import scope_of
from ..errors import EngineUnavailable, InvalidRequest
from ..types import ByteSize, Capacity
from . import kernel as kernels
from .kernel import Kernel
from .settings import VmSettings

__all__ = ["VmHost", "capacity", "check_platform", "find_kernel", "missing_kvm", "with_groups"]

_KVM = "/dev/kvm"
_KERNEL_IMAGE = "DMS_EXECUTOR_KERNEL_IMAGE"


class VmHost(msgspec.Struct, frozen=True, kw_only=True):
    """`program`: the monitor's; `accelerator`: what runs its guests. `joins`: the files by which a shim leaves its
    caller's cgroups. `scope`: the cgroup of our own below systemd. `kvm_group`: of /dev/kvm, 0 without.
    """

    program: str
    accelerator: str = "kvm"
    cgroups: Cgroups
    joins: list[str] = []
    scope: str = ""
    kvm_group: int = 0

    def job_group(self, parent: str, token: str) -> str:
        """The cgroup of one VM, below each hierarchy's mount."""
        return f"{self.scope}/{token}" if self.scope else f"{parent}/{token}"


H = TypeVar("H", bound=VmHost)


async def with_groups(host: H, settings: VmSettings) -> H:
    """Makes what all executions share: the cgroup of shims and VMs."""
    if host.cgroups.mode == "v2":
        scope = await scope_of(settings.cgroup_parent, host.cgroups.hierarchies[0].mount)
        host = msgspec.structs.replace(host, scope=scope)
    shims = f"{host.scope or settings.cgroup_parent}/shims"
    joins = await asyncio.to_thread(make_shims_group, host.cgroups, shims)
    return msgspec.structs.replace(host, joins=joins)


async def find_kernel(settings: VmSettings, cache: Path) -> Kernel:
    """Of the settings, else of the environment, else an installed one. Raises `EngineUnavailable`."""
    wanted = settings.kernel_image or os.environ.get(_KERNEL_IMAGE)
    try:
        return await kernels.find(Path(wanted) if wanted is not None else None, cache)
    except InvalidRequest as error:
        raise EngineUnavailable(f"kernel_image: {error.message}", mend=error.mend) from error


def capacity(state_dir: Path) -> Capacity:
    """What all executions together may reserve. Blocks."""
    status = os.statvfs(state_dir)
    return Capacity(
        cpu=float(len(os.sched_getaffinity(0))),
        memory=ByteSize(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        disk=ByteSize(status.f_bavail * status.f_frsize),
    )


def check_platform(engine: str) -> None:
    """Raises `EngineUnavailable`."""
    if os.geteuid() != 0:
        raise EngineUnavailable(
            f"the engine {engine} runs as root only, so far", mend="Run it as root, or use the engine oci"
        )
    if platform.machine() != "x86_64":
        raise EngineUnavailable(f"the engine {engine} runs on x86_64 only, so far", mend="Use the engine oci")


def missing_kvm() -> str:
    """Why KVM cannot be used; empty where it opens. Blocks."""
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{_KVM} does not exist (virtualisation is off in the firmware, or kvm is not loaded)"
    except OSError as error:
        return f"{_KVM} cannot be opened: {error.strerror}"
    return ""
