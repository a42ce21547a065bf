"""The `qemu` engine: each job in a microVM of its own by QEMU, with KVM or emulated. Most of it is `MicrovmEngine`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..engine import Execution
from ..microvm.drives import Drives
from ..microvm.launch import Launch, Monitor, readable
from ..microvm.network import GuestNetwork
from ..microvm.plan import FOLDER, MEMORY, Plan
from ..microvm.saving import SavingEngine
from ..microvm.settings import vm_memory
from ..microvm.warm import Template, open_snapshot
from ..typed import known
from ..types import PortMapping
from .command import COLD, FIRST, NETWORK, WARM, Disk, Machine, qemu_argv
from .host import Host, prepare_host
from .spec import QemuParams, QemuSettings, checked_params, checked_settings
from .template import template_of

__all__ = ["QemuEngine"]


class QemuEngine(SavingEngine[QemuSettings, Host]):
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

    guest_network: ClassVar[GuestNetwork] = NETWORK

    def _read_settings(self, settings: Any) -> QemuSettings:
        return checked_settings(settings)

    async def _prepare_host(self) -> Host:
        return await prepare_host(self._settings)

    def _version(self, host: Host) -> str:
        return f"{Path(host.program).name} ({f'emulation only: {host.why}' if host.why else 'KVM'})"

    def _read_params(self, params: dict[str, Any]) -> QemuParams:
        return checked_params(params)

    def _template(self, x: Execution, host: Host, plan: Plan, drives: Drives) -> Template:
        writable = [not drive.read_only for drive in drives.files]
        has_network = x.request.network == "user"
        return template_of(self._machine(host, plan), host, plan, writable, has_network, self._context.state_dir)

    def _machine(self, host: Host, plan: Plan) -> Machine:
        rate = self._settings.disk_rate
        return Machine(
            program=host.program,
            accelerator=host.accelerator,
            memory=vm_memory(plan.limits.memory, self._settings),
            cpu=plan.limits.cpu,
            cpus=len(os.sched_getaffinity(0)),
            tsc_khz=host.tsc_khz,
            disk_bandwidth=None if rate.bandwidth is None else int(rate.bandwidth),
            disk_ops=rate.ops,
        )

    def _machine_state(self, host: Host, plan: Plan) -> dict[str, Any]:
        state: dict[str, Any] = msgspec.to_builtins(self._machine(host, plan))
        return state

    def _monitor(self, x: Execution, host: Host, launch: Launch, plan: Plan, drives: Drives) -> Monitor:
        passed, disks = _opened(x, launch, plan, drives)
        options = _options(host, launch)
        if plan.snapshot is not None and (fd := open_snapshot(plan.snapshot)) is not None:
            passed.append(launch.keep(fd))
            options += ["-w", str(WARM), str(COLD)]
        argv = qemu_argv(self._machine(host, plan), disks, _ports(x), managed=True, restored="-w" in options)
        return Monitor(argv=argv, passed=passed, options=options, suspends=True)

    def _restored(
        self, x: Execution, host: Host, machine: dict[str, Any], launch: Launch, plan: Plan, drives: Drives
    ) -> Monitor:
        passed, disks = _opened(x, launch, plan, drives)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        passed.append(launch.keep(os.open(x.folder / FOLDER / MEMORY, flags)))
        options = [*_options(host, launch), "-s", str(FIRST + len(passed) - 1)]
        same = msgspec.structs.replace(msgspec.convert(machine, known(Machine)), program=host.program)
        argv = qemu_argv(same, disks, _ports(x), managed=True, awaits=True)
        return Monitor(argv=argv, passed=passed, options=options, suspends=True)


def _options(host: Host, launch: Launch) -> list[str]:
    return ["-u", str(launch.owner), str(launch.owner), str(host.kvm_group), "-m"]


def _ports(x: Execution) -> list[PortMapping] | None:
    return x.request.ports if x.request.network == "user" else None


def _opened(x: Execution, launch: Launch, plan: Plan, drives: Drives) -> tuple[list[int], list[Disk]]:
    """What QEMU is passed, and the disks of it."""
    disks = []
    for drive in drives.files:
        modes = (os.O_RDONLY,) if drive.read_only else (os.O_RDONLY, os.O_RDWR)
        path, flags = x.folder / FOLDER / drive.name, os.O_NOFOLLOW | os.O_CLOEXEC
        disks.append(Disk(fds=[launch.keep(os.open(path, mode | flags)) for mode in modes]))
    passed = [launch.keep(readable(plan.kernel)), launch.keep(readable(plan.initrd))]
    return passed + [fd for disk in disks for fd in disk.fds], disks
