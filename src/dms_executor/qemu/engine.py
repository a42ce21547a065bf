"""The `qemu` engine: each job in a microVM of its own by QEMU, with KVM or emulated. Most of it is `MicrovmEngine`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..engine import Execution
from ..microvm.drives import Drives
from ..microvm.engine import MicrovmEngine
from ..microvm.launch import Launch, Monitor, readable
from ..microvm.network import GuestNetwork
from ..microvm.plan import FOLDER, Plan
from .command import NETWORK, Disk, Machine, qemu_argv
from .host import Host, prepare_host
from .spec import QemuParams, QemuSettings, checked_params, checked_settings

__all__ = ["QemuEngine"]


class QemuEngine(MicrovmEngine[QemuSettings, Host]):
    """See the module."""

    name: ClassVar[str] = "qemu"
    rank: ClassVar[int] = 40
    params: ClassVar[type[msgspec.Struct]] = QemuParams
    settings: ClassVar[type[msgspec.Struct]] = QemuSettings
    modules: ClassVar[tuple[str, ...]] = (
        "virtio_mmio",
        "virtio_blk",
        "virtio_console",
        "overlay",
        "?crc32c_generic",
        "erofs",
    )

    guest_network: ClassVar[GuestNetwork | None] = NETWORK

    def _network_program(self) -> str | None:
        return self._settings.network_program

    def _read_settings(self, settings: Any) -> QemuSettings:
        return checked_settings(settings)

    async def _prepare_host(self) -> Host:
        return await prepare_host(self._settings)

    def _version(self, host: Host) -> str:
        return f"{Path(host.program).name} ({f'emulation only: {host.why}' if host.why else 'KVM'})"

    def _read_params(self, params: dict[str, Any]) -> QemuParams:
        return checked_params(params)

    def _monitor(self, x: Execution, host: Host, launch: Launch, plan: Plan, drives: Drives) -> Monitor:
        disks = []
        for drive in drives.files:
            modes = (os.O_RDONLY,) if drive.read_only else (os.O_RDONLY, os.O_RDWR)
            path, flags = x.folder / FOLDER / drive.name, os.O_NOFOLLOW | os.O_CLOEXEC
            disks.append(Disk(fds=[launch.keep(os.open(path, mode | flags)) for mode in modes]))
        machine = Machine(
            program=host.program,
            accelerator=host.accelerator,
            memory=plan.limits.memory or self._settings.memory << 20,
            cpu=plan.limits.cpu,
            cpus=len(os.sched_getaffinity(0)),
            tsc_khz=host.tsc_khz,
        )
        return Monitor(
            argv=qemu_argv(machine, disks, x.request.ports if x.request.network == "user" else None),
            passed=[
                launch.keep(readable(plan.kernel)),
                launch.keep(readable(plan.initrd)),
                *(fd for disk in disks for fd in disk.fds),
            ],
            options=["-u", str(launch.owner), str(launch.owner), str(host.kvm_group)],
        )
