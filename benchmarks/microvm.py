"""From `start` to a job's first instruction in a microVM, against the bare VM with the same kernel, initrd and drive.

The bare side is QEMU started by hand with the engine's own command line, until its guest's first word on the channel:
no shim, no job, nothing mounted. In turn, so that both have the same machine. Emulated where KVM runs no guest.

usage: python benchmarks/microvm.py [ROUNDS [KERNEL]]
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.qemu import QemuSettings, QemuSpec
from dms_executor.qemu.command import FIRST_DISK, Disk, Machine, qemu_argv
from dms_executor.qemu.host import Host, prepare_host
from roots import busybox_root

MEMORY = 512 << 20
CHANNEL, CONSOLE, KERNEL, INITRD = 3, 4, 6, 7  # native/vmm.h
SPARE = 100  # descriptors, out of the way of those


async def ours(executor: Executor, root: Path, number: int) -> float:
    """Seconds until `start` returns, which is when the job runs."""
    name = f"job-{number}"
    spec = QemuSpec(image=f"rootfs:{root}", cmd=["sleep", "1000"]).build()
    began = time.perf_counter()
    await executor.start(ExecutionRequest(job_id="bench", execution_id=name, engine_spec=spec))
    took = time.perf_counter() - began
    await executor.cancel(name, grace=0)
    await executor.wait(name)
    return took


def bare(host: Host, caches: Path) -> float:
    """Seconds until the guest says anything."""
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
    files = [next((caches / name).iterdir()) for name in ("kernels", "initrds", "roots")]
    opened = [theirs.fileno(), written.fileno(), *(os.open(file, os.O_RDONLY) for file in files)]
    places = [CHANNEL, CONSOLE, KERNEL, INITRD, FIRST_DISK]
    moved = [os.dup2(fd, SPARE + place) for fd, place in zip(opened, places, strict=True)]

    def arrange() -> None:
        for fd, place in zip(moved, places, strict=True):
            os.dup2(fd, place)

    began = time.perf_counter()
    null = subprocess.DEVNULL
    argv = qemu_argv(machine, [Disk(fds=[FIRST_DISK])])
    process = subprocess.Popen(
        argv, stdin=null, stdout=null, stderr=null, close_fds=False, pass_fds=(), preexec_fn=arrange
    )
    channel.settimeout(300)
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
    engines = {"qemu": {"kernel_image": kernel} if kernel is not None else {}}
    with tempfile.TemporaryDirectory() as folder:
        root = busybox_root(Path(folder) / "root")
        policy = Policy(read_roots=(root,), missing_defaults="record")
        state = Path(folder) / "state"
        async with Executor.open(state, policy=policy, settings=Settings(engines=engines)) as executor:
            await ours(executor, root, -1)  # kernel, initrd and root image are made once
            both: list[tuple[float, float]] = []
            for number in range(rounds):
                there = await asyncio.to_thread(bare, host, state / "microvm")
                both.append((await ours(executor, root, number), there))
                print(f"ours {both[-1][0]:.2f} s, bare {both[-1][1]:.2f} s", flush=True)
    mine, other = (statistics.median(column) for column in zip(*both, strict=True))
    ratio = statistics.median(here / there for here, there in both)
    print(f"{host.accelerator}: ours {mine:.2f} s, bare {other:.2f} s, ratio of the rounds {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2] if len(sys.argv) > 2 else None))
