"""The snapshot of a guest of one shape: QEMU's own migration, to a file and from it.

The machine is the job's, word for word, but that disks of nothing stand in for the job's own: a guest looks at its
disks only when it begins (native/guest_wake.c).
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ..microvm.booting import booted
from ..microvm.launch import Launch, Monitor, owner_of, readable
from ..microvm.plan import Plan
from ..microvm.warm import Template, key_of_guest
from ..types import PortMapping
from .command import Disk, Machine, qemu_argv
from .host import Host
from .monitor import save

__all__ = ["template_of"]

_DISK = 1 << 20


def template_of(
    machine: Machine, host: Host, plan: Plan, writable: Sequence[bool], has_network: bool, state_dir: Path
) -> Template:
    """`writable`: of each of its disks. Blocks."""
    ports: list[PortMapping] | None = [] if has_network else None

    async def take(fd: int, folder: Path) -> None:
        launch = Launch(owner_of(secrets.token_hex(16)))
        ours, theirs = socket.socketpair()
        with closing(launch), ours, theirs:
            kernel, initrd = launch.keep(readable(plan.kernel)), launch.keep(readable(plan.initrd))
            disks = [_disk(launch, writes) for writes in writable]
            passed = [kernel, initrd, *(fd for disk in disks for fd in disk.fds), theirs.fileno()]
            argv = qemu_argv(machine, disks, ports, monitored=True)
            options = ["-u", str(launch.owner), str(launch.owner), str(host.kvm_group)]
            ours.setblocking(False)
            async with booted(state_dir, folder, Monitor(argv=argv, passed=passed, options=options)):
                await save(ours, fd)

    return Template(key=_key(machine, plan, writable, ports, state_dir), take=take)


def _key(
    machine: Machine, plan: Plan, writable: Sequence[bool], ports: list[PortMapping] | None, state_dir: Path
) -> str:
    disks = [Disk(fds=[0, 0] if writes else [0]) for writes in writable]
    words = qemu_argv(machine, disks, ports, timed=False)
    return key_of_guest(words, machine.program, plan.kernel, plan.initrd, state_dir)


def _disk(launch: Launch, writable: bool) -> Disk:
    fd = launch.keep(os.memfd_create("disk", os.MFD_CLOEXEC))
    os.ftruncate(fd, _DISK)
    modes = (os.O_RDONLY, os.O_RDWR) if writable else (os.O_RDONLY,)
    return Disk(fds=[launch.keep(os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC)) for mode in modes])
