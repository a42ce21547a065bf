"""From `start` to a job's first instruction in a microVM by Firecracker, cold and from a warm snapshot, against the
bare Firecracker with the same machine. Ours is jailed.

The bare side is Firecracker started by hand with the engine's own description of its machine, or with the engine's own
snapshot and calls, until its guest's first word: no shim, no jailer, no job, nothing mounted. In turn, so that both
have the same machine. It takes a KVM that boots Linux: `scripts/host python benchmarks/firecracker.py`.

usage: python benchmarks/firecracker.py [ROUNDS [KERNEL_ARGS]]   (DMS_EXECUTOR_FIRECRACKER: the program, else on PATH)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dms_executor import Policy
from dms_executor.firecracker import FirecrackerSpec
from dms_executor.firecracker.api import Api
from dms_executor.firecracker.config import AGENT_PORT, Machine, document
from dms_executor.firecracker.machine import INITRD, KERNEL, drive_name, machine_of
from dms_executor.firecracker.place import API, CONFIG, VSOCK, Place
from dms_executor.firecracker.restoring import MEMORY, STATE, restored
from dms_executor.firecracker.spec import FirecrackerParams, FirecrackerSettings
from dms_executor.images import ImageConfig
from dms_executor.microvm import warm
from dms_executor.microvm.plan import Plan
from roots import busybox_root
from starts import measured


async def bare(program: str, machine: Machine, caches: Path, folder: Path, *, again: bool) -> float:
    """Seconds until the guest says anything."""
    place = Place(folder, os.urandom(6).hex(), 0, None)
    place.lend(_only(caches / "roots"), drive_name(0))
    if again:
        assert restored(place, _only(caches / "warm"), machine) is not None
    else:
        place.lend(_only(caches / "kernels"), KERNEL)
        place.lend(_only(caches / "initrds"), INITRD)
        place.write(CONFIG, document(machine))
    said = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            said.set()

    server = await asyncio.start_unix_server(hear, place.folder / f"{VSOCK}_{AGENT_PORT}")
    null = asyncio.subprocess.DEVNULL
    config = [] if again else ["--config-file", CONFIG]
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(program, "--api-sock", API, "--level", "Off", *config), cwd=place.folder, stdin=null, stdout=null, stderr=null
    )
    if again:
        while not (place.folder / API).exists():
            await asyncio.sleep(0.001)
        api = Api(place.folder / API)
        await api.load(Path(STATE), Path(MEMORY), resume=False)
        await api.move_drive(drive_name(0), Path(drive_name(0)))
        await api.resume()
    await asyncio.wait_for(said.wait(), 300)
    took = time.perf_counter() - began
    process.kill()
    await process.wait()
    server.close()
    shutil.rmtree(place.folder)
    return took


async def main(rounds: int, kernel_args: str) -> None:
    program = os.environ.get("DMS_EXECUTOR_FIRECRACKER") or shutil.which("firecracker")
    warm._DEADLINE = 600.0  # however slow an emulated host boots: no start is measured that makes a snapshot
    if program is None:
        raise SystemExit("there is no firecracker: put one on PATH, or name it by DMS_EXECUTOR_FIRECRACKER")
    jailer = str(Path(program).with_name("jailer"))
    plain: dict[str, Any] = {"program": program, "jailer": jailer, "kernel_args": kernel_args}
    plan = Plan(image=ImageConfig(), kernel="", initrd="")
    settings = FirecrackerSettings(kernel_args=kernel_args)
    machine = machine_of(plan, [False], False, FirecrackerParams(image="bare"), settings)
    ways = {"ours cold": {**plain, "warm": False}, "ours warm": plain}
    found: dict[str, list[float]] = {name: [] for name in ("bare boot", "bare restore", *ways)}
    with tempfile.TemporaryDirectory() as folder:
        root = busybox_root(Path(folder) / "root")
        spec = FirecrackerSpec(image=f"rootfs:{root}", cmd=["sleep", "1000"]).build()
        policy = Policy(read_roots=(root,), missing_defaults="record")
        state, number = Path(folder) / "state", 0
        caches = state / "microvm"
        first = await measured(state, policy, plain, spec, number)  # kernel, initrd, root image and snapshot are made
        print(f"the first of its shape, with all that is made once: {first:.2f} s", flush=True)
        size = _only(caches / "warm").stat()
        print(f"its snapshot: {size.st_size >> 20} MiB, {size.st_blocks >> 11} MiB on the disk", flush=True)
        for _ in range(rounds):
            for again, name in ((False, "bare boot"), (True, "bare restore")):
                took = await bare(program, machine, caches, Path(folder) / "bare", again=again)
                found[name].append(took)
            for name, engine in ways.items():
                number += 1
                found[name].append(await measured(state, policy, engine, spec, number))
            print(", ".join(f"{name} {took[-1]:.3f} s" for name, took in found.items()), flush=True)
    print("medians: " + ", ".join(f"{name} {statistics.median(took):.3f} s" for name, took in found.items()))
    cold, clones = found["ours cold"], found["ours warm"]
    ratio = statistics.median(mine / theirs for mine, theirs in zip(cold, found["bare boot"], strict=True))
    sooner = statistics.median(slow / fast for slow, fast in zip(cold, clones, strict=True))
    print(f"of the rounds: cold {ratio:.2f} times the bare boot, warm {sooner:.1f} times sooner than cold")


def _only(folder: Path) -> Path:
    (found,) = [path for path in folder.iterdir() if path.suffix not in (".making", ".refused", ".work")]
    return found


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else ""))
