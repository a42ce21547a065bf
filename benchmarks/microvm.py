"""From `start` to a job's first instruction in a microVM, cold and from a warm snapshot, against the bare VM with the
same kernel, initrd and drive.

The bare side is QEMU started by hand with the engine's own command line, until its guest's first word on the channel:
no shim, no job, nothing mounted. In turn, so that both have the same machine. Emulated where KVM runs no guest.

usage: python benchmarks/microvm.py [ROUNDS [KERNEL]]
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dms_executor import Policy
from dms_executor.qemu import QemuSettings, QemuSpec
from dms_executor.qemu.command import COLD, FIRST_DISK, Disk, Machine, qemu_argv
from dms_executor.qemu.host import Host, prepare_host
from roots import busybox_root
from starts import measured

MEMORY = 512 << 20
CHANNEL, CONSOLE, KERNEL, INITRD = 3, 4, 6, 7  # native/vmm.h
WAKE = 140  # native/frame.h
SPARE = 100  # descriptors, out of the way of those


def bare(host: Host, caches: Path, restored: bool = False) -> float:
    """Seconds until the guest says anything: booted, or restored from our snapshot and woken."""
    machine = Machine(
        program=host.program,
        accelerator=host.accelerator,
        memory=MEMORY,
        cpu=None,
        cpus=len(os.sched_getaffinity(0)),
        tsc_khz=host.tsc_khz,
    )
    channel, theirs = socket.socketpair()
    console, written = socket.socketpair()
    names = ("kernels", "initrds", "roots", *(("warm",) if restored else ()))
    files = [next((caches / name).iterdir()) for name in names]
    opened = [theirs.fileno(), written.fileno(), *(os.open(file, os.O_RDONLY) for file in files)]
    places = [CHANNEL, CONSOLE, KERNEL, INITRD, FIRST_DISK, *((FIRST_DISK + 1,) if restored else ())]
    moved = [os.dup2(fd, SPARE + place) for fd, place in zip(opened, places, strict=True)]

    def arrange() -> None:
        for fd, place in zip(moved, places, strict=True):
            os.dup2(fd, place)

    began = time.perf_counter()
    null = subprocess.DEVNULL
    disks = [Disk(fds=[FIRST_DISK])]
    argv = qemu_argv(machine, disks, restored=restored)
    if restored:
        del argv[-COLD:]
    process = subprocess.Popen(
        argv, stdin=null, stdout=null, stderr=null, close_fds=False, pass_fds=(), preexec_fn=arrange
    )
    channel.settimeout(300)
    if restored:
        channel.send(struct.pack("<IBBH", 0, WAKE, 0, 0))
    if not channel.recv(1):
        raise SystemExit("the bare guest said nothing")
    took = time.perf_counter() - began
    process.kill()
    process.wait()
    for fd in (*moved, *opened[2:]):
        os.close(fd)
    for end in (channel, theirs, console, written):
        end.close()
    return took


async def main(rounds: int, kernel: str | None) -> None:
    host = await prepare_host(QemuSettings(kernel_image=kernel))
    plain: dict[str, Any] = {"kernel_image": kernel} if kernel is not None else {}
    cold = {**plain, "warm": False}
    with tempfile.TemporaryDirectory() as folder:
        root = busybox_root(Path(folder) / "root")
        spec = QemuSpec(image=f"rootfs:{root}", cmd=["sleep", "1000"]).build()
        policy = Policy(read_roots=(root,), missing_defaults="record")
        state = Path(folder) / "state"
        first = await measured(state, policy, plain, spec, -1)  # kernel, initrd, root image and snapshot are made
        print(f"the first of its shape, with all that is made once: {first:.2f} s", flush=True)
        found: list[tuple[float, float, float, float]] = []
        for number in range(rounds):
            there = await asyncio.to_thread(bare, host, state / "microvm")
            booted = await measured(state, policy, cold, spec, 2 * number)
            restored = await measured(state, policy, plain, spec, 2 * number + 1)
            again = await asyncio.to_thread(bare, host, state / "microvm", True)
            found.append((there, booted, again, restored))
            print(
                "bare boot {:.2f} s, ours cold {:.2f} s, bare restore {:.3f} s, ours warm {:.3f} s".format(*found[-1])
            )
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    told = "medians: bare boot {:.2f} s, ours cold {:.2f} s, bare restore {:.3f} s, ours warm {:.3f} s"
    print(f"{host.accelerator}, {told.format(*medians)}")
    ratio = statistics.median(booted / there for there, booted, _, _ in found)
    sooner = statistics.median(booted / restored for _, booted, _, restored in found)
    print(f"of the rounds: cold {ratio:.2f} times the bare boot, warm {sooner:.1f} times sooner than cold")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2] if len(sys.argv) > 2 else None))
