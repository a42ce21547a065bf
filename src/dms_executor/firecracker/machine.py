"""What the machine of a job's guest is. Its names are the same in every place, so that one of the same shape, restored
from a snapshot, finds its own files under them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..microvm.plan import Plan
from ..microvm.settings import OWN_MEMORY, vm_memory
from .config import Drive, Machine, boot_args, vcpus
from .network import interface
from .place import VSOCK
from .spec import FirecrackerParams, FirecrackerSettings

__all__ = ["INITRD", "KERNEL", "drive_name", "machine_of"]

KERNEL, INITRD = "kernel", "initrd"
# The console is for a guest's last words; more serial ports cost a boot's time.
_WORDS = ("console=ttyS0", "8250.nr_uarts=1")


def drive_name(number: int) -> str:
    """Of the disk that the guest finds as that one: its id, and its file in the place."""
    return f"disk{number}"


def machine_of(
    plan: Plan,
    writable: Sequence[bool],
    has_network: bool,
    params: FirecrackerParams,
    settings: FirecrackerSettings,
) -> Machine:
    """`writable`: of each of its disks."""
    names = [drive_name(number) for number in range(len(writable))]
    return Machine(
        kernel=Path(KERNEL),
        initrd=Path(INITRD),
        vcpus=vcpus(plan.limits.cpu or 1.0, len(os.sched_getaffinity(0))),
        memory=vm_memory(plan.limits.memory, settings) + OWN_MEMORY,
        boot_args=boot_args([*_WORDS, *settings.kernel_args.split()], params.kernel_args),
        drives=[
            Drive(name=name, path=Path(name), read_only=not writes, rate=settings.disk_rate)
            for name, writes in zip(names, writable, strict=True)
        ],
        interfaces=[interface(settings.network_rate)] if has_network else [],
        vsock=Path(VSOCK),
    )
