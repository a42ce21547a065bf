"""QEMU's command line: the `microvm` machine with what a job needs and nothing else.

No path of the host's stands in it: disks, kernel and initrd are descriptors. Nothing of the request does but numbers.
https://www.qemu.org/docs/master/system/i386/microvm.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ..microvm.network import GuestNetwork
from ..microvm.settings import OWN_MEMORY
from ..types import PortMapping

__all__ = ["CHANNEL", "COLD", "FIRST", "FIRST_DISK", "NETWORK", "WARM", "Disk", "Machine", "qemu_argv"]

CHANNEL = "dms.channel"  # the port's name, as native/guest.c looks for it
FIRST = 6  # what is passed: native/vmm.h
FIRST_DISK = 8
WARM, COLD = 2, 6  # words at the end of a command line
_CHANNEL_FD, _CONSOLE_FD, _MONITOR_FD, _KERNEL_FD, _INITRD_FD = 3, 4, 5, 6, 7  # native/vmm.h
_BUFFER = 64  # MiB of translated code
_WORDS = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests"
# Another one than that of the namespace around it, whose forwarder of names the guest asks.
NETWORK = GuestNetwork(address="10.0.3.15", mask="255.255.255.0", gateway="10.0.3.2")
_SUBNET = "10.0.3.0/24"
_UNUSED = "10.0.3.3"  # where QEMU would answer for names itself
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """`fds`: as this process has it opened: for reading, and once more for both where the guest writes to it. QEMU
    takes the one that fits each of its own openings.
    """

    fds: list[int]

    @property
    def read_only(self) -> bool:
        return len(self.fds) == 1


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """`memory`: bytes of the job's, `cpu`: its cores; `tsc_khz`: what an emulated guest is told of its clock;
    `disk_bandwidth`, `disk_ops`: bytes and operations of each of its disks in a second.
    """

    program: str
    accelerator: str
    memory: int
    cpu: float | None
    cpus: int
    tsc_khz: int | None = None
    disk_bandwidth: int | None = None
    disk_ops: int | None = None


def qemu_argv(
    machine: Machine,
    disks: Sequence[Disk],
    ports: Sequence[PortMapping] | None = None,
    *,
    timed: bool = True,
    monitored: bool = False,
    managed: bool = False,
    restored: bool = False,
    awaits: bool = False,
) -> list[str]:
    """`disks` in the order in which the guest finds them (vda, vdb, ...); they are passed from `FIRST_DISK` on.

    `ports`: of a guest with a network, None: it has none. `timed`: it is told the rate of its clock. `monitored`: it
    listens to QMP on the descriptor behind those of the disks. `restored`: from a snapshot, which is that descriptor;
    its last words are then `WARM` of such a start, and `COLD` of a boot in its place. `managed`: `dms-vm` talks to it.
    `awaits`: it begins nothing, and is told from where it goes on.
    """
    emulated = machine.accelerator == "tcg"
    words = _WORDS
    if timed and emulated and machine.tsc_khz is not None:
        words += f" tsc_early_khz={machine.tsc_khz}"
    cores = min(machine.cpus, max(1, math.ceil(machine.cpu or 1)))
    memory = -(-(machine.memory + OWN_MEMORY) // (1 << 20))
    argv = [machine.program, "-M", "microvm,acpi=on"]
    argv += ["-accel", f"tcg,tb-size={_BUFFER}" if emulated else "kvm", "-cpu", "max" if emulated else "host"]
    argv += ["-smp", str(cores), "-m", f"{memory}M"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", _SANDBOX]
    argv += ["-chardev", f"socket,id=console,fd={_CONSOLE_FD}", "-serial", "chardev:console"]
    argv += ["-device", "virtio-serial-device", "-chardev", f"socket,id=channel,fd={_CHANNEL_FD}"]
    argv += ["-device", f"virtserialport,chardev=channel,name={CHANNEL}"]
    place = FIRST_DISK
    for number, disk in enumerate(disks):
        # Nothing on a disk outlives the VM but what is read after its end: no flush of the host's is worth its time.
        access = "readonly=on" if disk.read_only else "readonly=off"
        for fd in range(place, place + len(disk.fds)):
            argv += ["-add-fd", f"fd={fd},set={number}"]
        place += len(disk.fds)
        given = f"id=d{number},if=none,format=raw,{access},file=/dev/fdset/{number},cache=unsafe"
        argv += ["-drive", given + _throttled(machine)]
        argv += ["-device", f"virtio-blk-device,drive=d{number}"]
    if monitored:
        argv += ["-chardev", f"socket,id=monitor,fd={place}", "-mon", "chardev=monitor,mode=control"]
    if managed:
        argv += ["-chardev", f"socket,id=keeper,fd={_MONITOR_FD}", "-mon", "chardev=keeper,mode=control"]
    if ports is not None:
        argv += _network(ports)
    if awaits:
        argv += ["-incoming", "defer"]
    if restored:
        argv += ["-incoming", f"fd:{place}"]
    # All of a guest's memory is in its snapshot: these are neither read nor missed there.
    return [*argv, "-kernel", f"/proc/self/fd/{_KERNEL_FD}", "-initrd", f"/proc/self/fd/{_INITRD_FD}", "-append", words]


def _throttled(machine: Machine) -> str:
    """https://github.com/qemu/qemu/blob/master/docs/throttle.txt"""
    named = (("bps", machine.disk_bandwidth), ("iops", machine.disk_ops))
    return "".join(f",throttling.{name}-total={value}" for name, value in named if value is not None)


def _network(ports: Sequence[PortMapping]) -> list[str]:
    """QEMU's own: what comes to a port goes to the guest's. https://www.qemu.org/docs/master/system/devices/net.html"""
    wanted = sorted({(port.protocol, port.container_port) for port in ports})
    forwarded = "".join(f",hostfwd={protocol}::{number}-:{number}" for protocol, number in wanted)
    given = f"net={_SUBNET},host={NETWORK.gateway},dhcpstart={NETWORK.address},dns={_UNUSED},ipv6=off"
    return ["-netdev", f"user,id=network,{given}{forwarded}", "-device", "virtio-net-device,netdev=network"]
