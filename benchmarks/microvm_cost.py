"""What a microVM costs beside its start: how fast its stdout is, and the host's memory that it takes beyond its own.

usage: python benchmarks/microvm_cost.py [MIB [KERNEL]]    MIB: of output, in lines of 100 bytes
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from dms_executor import ByteSize, ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from dms_executor.qemu import QemuSpec
from roots import busybox_root
from throughput import through_the_log, writer

MEMORY = 512  # MiB of the guest


def memory_of(shim: int) -> dict[str, tuple[float, float]]:
    """By program, of the shim and all below it: MiB of the host's memory beside the guest's own, and of that."""
    found = {}
    for pid in [shim, *below(shim)]:
        others, guests = shares(Path(f"/proc/{pid}/smaps").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        found[f"{name} ({pid})"] = (others / 1024, guests / 1024)
    return found


def below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *below(child))]


def shares(maps: str) -> tuple[int, int]:
    """KiB: of all mappings but the guest's memory, and of that: it is the only one of such a size, and writable."""
    others = guests = size = 0
    writable = False
    for line in maps.splitlines():
        word, _, rest = line.partition(":")
        if "-" in word.split()[0]:
            writable = line.split()[1] == "rw-p"
        elif word == "Size":
            size = int(rest.split()[0])
        elif word == "Pss":
            share = int(rest.split()[0])
            if size >= MEMORY << 10 and writable:
                guests += share
            else:
                others += share
    return others, guests


async def main(mib: int, kernel: str | None) -> None:
    engine: dict[str, Any] = {"kernel_image": kernel} if kernel is not None else {}
    size = mib << 20
    with tempfile.TemporaryDirectory() as folder:
        root = busybox_root(Path(folder) / "root")
        writer(root)
        policy = Policy(read_roots=(root,), missing_defaults="record")
        settings = Settings(engines={"qemu": {**engine, "memory": MEMORY}}, log_cap=ByteSize(2 * size))
        image = f"rootfs:{root}"
        async with Executor.open(Path(folder) / "state", policy=policy, settings=settings) as executor:
            for engine_name, build in (("oci", OciSpec), ("qemu", QemuSpec)):
                took = []
                # The first one makes what is made once; the second tells what a start and an end take.
                for number, length in enumerate((1, 1, size)):
                    spec = build(image=image, cmd=["lines", str(length)]).build()
                    took.append((await through_the_log(executor, spec, length, f"{engine_name}-{number}"))[0])
                rate = mib / (took[2] - took[1])
                print(
                    f"{engine_name}: {mib} MiB of stdout {rate:.0f} MiB/s, a start and an end {took[1]:.2f} s",
                    flush=True,
                )
            spec = QemuSpec(image=image, cmd=["sleep", "1000"]).build()
            for name in ("cloned", "again"):
                await executor.start(ExecutionRequest(job_id="bench", execution_id=name, engine_spec=spec))
            await asyncio.sleep(2)  # what a start holds for a moment is given back
            shim = int((await executor.inspect("again")).engine_ids["shim"])
            for program, (others, guests) in memory_of(shim).items():
                print(f"{program}: {others:.1f} MiB beside {guests:.1f} MiB of the guest's own")
            for name in ("cloned", "again"):
                await executor.cancel(name, grace=0)
                await executor.wait(name)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, sys.argv[2] if len(sys.argv) > 2 else None))
