"""What Firecracker is told with `--config-file`: pure functions from what was chosen to the document.

All of the machine is in one file that is there before the process begins, so a launch is one exec, as of every other
engine; the API serves what comes after. Fields and bounds: src/firecracker/swagger/firecracker.yaml of
https://github.com/firecracker-microvm/firecracker; a field it does not know makes Firecracker refuse the file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..microvm.settings import Rate

__all__ = [
    "AGENT_PORT",
    "BOOT_ARGS",
    "CID",
    "Drive",
    "Interface",
    "Machine",
    "boot_args",
    "document",
    "memory_mib",
    "vcpus",
]

CID = 3  # of every guest: VMADDR_CID_HOST is 2, and each VMM has its own socket (vsock(7))
AGENT_PORT = 1024  # where the guest's agent calls, native/guest_link.c
_MOST_VCPUS = 32
_LEAST_MEMORY = 32 << 20  # a kernel and an initrd do not unpack in less
_REFILL = 1000  # ms
_COMMAND_LINE_MAX = 2047  # bytes, COMMAND_LINE_SIZE of x86_64 without its NUL
_ID = re.compile(r"[A-Za-z0-9_]+", re.ASCII)

# No PCI to be searched, no i8042 reset at the end; a panic ends the VMM, and with it the job, at once.
BOOT_ARGS = ("reboot=k", "panic=-1", "pci=off", "quiet", "cryptomgr.notests")

Cache = Literal["Unsafe", "Writeback"]


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """A block device; guests find them as vda, vdb, ... in the order of the list.

    `root`: the kernel is told that its root is there, which only a guest without our agent needs.
    """

    name: str
    path: Path
    read_only: bool
    root: bool = False
    cache: Cache = "Unsafe"
    rate: Rate = Rate()


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """`tap`: the host's device; each direction has `rate`."""

    name: str
    tap: str
    mac: str | None = None
    rate: Rate = Rate()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """All of a microVM. Paths are those that Firecracker sees: inside its chroot, where it has one.

    `memory`: bytes. `vsock`: the socket that Firecracker makes. `metadata_to`: the interfaces on which a guest may ask
    for what `--metadata` gave. `log`: where Firecracker itself complains.
    """

    kernel: Path
    vcpus: int
    memory: int
    boot_args: str
    initrd: Path | None = None
    drives: Sequence[Drive] = ()
    interfaces: Sequence[Interface] = ()
    vsock: Path | None = None
    metadata_to: Sequence[str] = ()
    log: Path | None = None
    track_dirty_pages: bool = False


def document(machine: Machine) -> bytes:
    """The file's content. Raises ValueError where Firecracker would refuse it: a defect of the caller's."""
    _check(machine)
    boot: dict[str, Any] = {"kernel_image_path": os.fspath(machine.kernel), "boot_args": machine.boot_args}
    if machine.initrd is not None:
        boot["initrd_path"] = os.fspath(machine.initrd)
    described: dict[str, Any] = {
        "boot-source": boot,
        "machine-config": {
            "vcpu_count": machine.vcpus,
            "mem_size_mib": memory_mib(machine.memory),
            "smt": False,
            "track_dirty_pages": machine.track_dirty_pages,
        },
        "drives": [_drive(drive) for drive in machine.drives],
        "network-interfaces": [_interface(interface) for interface in machine.interfaces],
        # A guest's random numbers come from the host's, also in a clone of a snapshot.
        "entropy": {},
    }
    if machine.vsock is not None:
        described["vsock"] = {"guest_cid": CID, "uds_path": os.fspath(machine.vsock)}
    if machine.metadata_to:
        described["mmds-config"] = {"version": "V2", "network_interfaces": list(machine.metadata_to)}
    if machine.log is not None:
        # Off: a guest can have it warn for ever, and nothing bounds that file. Without it the words go to the console.
        described["logger"] = {"log_path": os.fspath(machine.log), "level": "Off"}
    return msgspec.json.encode(described)


def vcpus(cpu: float | None, host: int) -> int:
    """Virtual processors for a job that may use `cpu` cores of a host that has `host`; None: all of them.

    One or an even number, at most 32: what Firecracker takes. What is too much of them a cgroup's quota holds back.
    """
    if cpu is None:
        return 1 if host < 2 else min(host - host % 2, _MOST_VCPUS)
    wanted = max(1, math.ceil(cpu))
    return wanted if wanted == 1 else min(wanted + wanted % 2, _MOST_VCPUS)


def memory_mib(memory: int) -> int:
    """`memory` bytes in the unit of the API, rounded down: a job never gets more than it may use.

    Raises `InvalidRequest` where no guest boots in so little.
    """
    if memory < _LEAST_MEMORY:
        raise InvalidRequest(
            f"no microVM boots in {memory} bytes", path="$.resources.memory", mend=f"At least {_LEAST_MEMORY >> 20}MiB"
        )
    return memory >> 20


def boot_args(more: Sequence[str] = (), given: str | None = None) -> str:
    """The kernel's command line: ours, `more`, and a request's own `kernel_args` last, which win.

    Raises `InvalidRequest` where those are longer than the kernel takes, or hold what cannot be in one.
    """
    field = "$.engine_spec.params.kernel_args"
    if given is not None and not (given.isascii() and given.isprintable()):
        raise InvalidRequest("a kernel's arguments are printable ASCII", path=field, mend="Leave the rest out")
    line = " ".join([*BOOT_ARGS, *more, *((given or "").split())])
    if len(line) > _COMMAND_LINE_MAX:
        raise InvalidRequest(
            f"a kernel takes {_COMMAND_LINE_MAX} bytes of arguments, with ours these are {len(line)}",
            path=field,
            mend="Shorten them",
        )
    return line


def _drive(drive: Drive) -> dict[str, Any]:
    described = {
        "drive_id": drive.name,
        "path_on_host": os.fspath(drive.path),
        "is_root_device": drive.root,
        "is_read_only": drive.read_only,
        "cache_type": drive.cache,
    }
    return described | _limited("rate_limiter", drive.rate)


def _interface(interface: Interface) -> dict[str, Any]:
    described = {"iface_id": interface.name, "host_dev_name": interface.tap}
    if interface.mac is not None:
        described["guest_mac"] = interface.mac
    return described | _limited("rx_rate_limiter", interface.rate) | _limited("tx_rate_limiter", interface.rate)


def _limited(field: str, rate: Rate) -> dict[str, Any]:
    named = {"bandwidth": rate.bandwidth, "ops": rate.ops}
    buckets = {name: {"size": int(size), "refill_time": _REFILL} for name, size in named.items() if size is not None}
    return {field: buckets} if buckets else {}


def _check(machine: Machine) -> None:
    names = [drive.name for drive in machine.drives] + [interface.name for interface in machine.interfaces]
    wrong = [name for name in names if not _ID.fullmatch(name)]
    if wrong or len(set(names)) != len(names):
        raise ValueError(f"names of devices are letters, digits and '_', each once: {wrong or names}")
    if sum(drive.root for drive in machine.drives) > 1:
        raise ValueError("more than one drive is the root")
    if not 1 <= machine.vcpus <= _MOST_VCPUS or (machine.vcpus > 1 and machine.vcpus % 2):
        raise ValueError(f"{machine.vcpus} virtual processors")
    unknown = set(machine.metadata_to) - {interface.name for interface in machine.interfaces}
    if unknown:
        raise ValueError(f"metadata for interfaces that are not there: {sorted(unknown)}")
