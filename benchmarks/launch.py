"""Launch to result of `echo hi`: this package against the bare runtime's own `run` of the same bundle, in turn.

With a user namespace on both sides where this host has them: the bare one's over a root that belongs to it beforehand.

usage: python benchmarks/launch.py [ROUNDS [RUNTIME...]]
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bare import Bare, bare_config
from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from failed import Failed
from roots import busybox_root

FILTERED = "bare, its own filter"
BOUNDS = {"crun": {"bare": 1.6, FILTERED: 0.8}, "runc": {"bare": 1.25, FILTERED: 1.0}, "runsc": {"bare": 1.25}}
# As the engine calls it, which runs it without a network of its own.
OPTIONS = {"runsc": ("--overlay2", "none", "--network", "none")}
WARM = 5
SETTLE = 0.04
ROW = 10


def request(execution_id: str, rootfs: Path, command: list[str], *, init: bool = True) -> ExecutionRequest:
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=command).build()
    return ExecutionRequest(job_id="bench", execution_id=execution_id, engine_spec=spec, init=init)


async def bundle_of(executor: Executor, state: Path, rootfs: Path, target: Path, *, init: bool) -> dict:
    """The config.json that this package makes, taken from a job that runs."""
    await executor.start(request("probe", rootfs, ["sleep", "100"], init=init))
    bundle = next(state.glob("executions/*/bundle"))
    shutil.copytree(bundle, target)
    await executor.remove("probe", force=True)
    return bare_config(json.loads((target / "config.json").read_text()), target)


async def ours(executor: Executor, rootfs: Path, number: int) -> float:
    began = time.perf_counter()
    result = await executor.run(request(f"e{number}", rootfs, ["echo", "hi"]))
    took = time.perf_counter() - began
    if (result.exit_code, result.stdout) != (0, b"hi\n"):
        raise Failed(f"our side failed: {result}")
    return took


def program_of(runtime: str) -> str | None:
    """gVisor's may be where `scripts/runsc` has put it."""
    if runtime != "runsc":
        return shutil.which(runtime)
    script = Path(__file__).parents[1] / "scripts" / "runsc"
    return subprocess.run([script, "--where"], capture_output=True, text=True).stdout.strip() or None


async def measure(runtime: str, program: str, rounds: int, durability: str, scratch: Path) -> None:
    rootfs = busybox_root(scratch)
    state = scratch / f"state-{runtime}-{durability}"
    settings = Settings(engines={"oci": {"runtime": program}}, durability=durability)
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        plain = await bundle_of(executor, state, rootfs, scratch / f"{runtime}-{durability}-plain", init=True)
        peers = {"bare": Bare(program, rootfs, plain, scratch, OPTIONS.get(runtime, ()))}
        if runtime != "runsc":  # which takes no job without our init
            filtered = await bundle_of(executor, state, rootfs, scratch / f"{runtime}-{durability}-seccomp", init=False)
            peers[FILTERED] = Bare(program, rootfs, filtered, scratch)
        report(f"{runtime} {durability} in turn", await in_turn(executor, rootfs, rounds, peers), BOUNDS[runtime])
        report(f"{runtime} {durability} in rows", await in_rows(executor, rootfs, rounds, peers), BOUNDS[runtime])


async def in_turn(executor: Executor, rootfs: Path, rounds: int, peers: dict[str, Bare]) -> dict[str, list[float]]:
    """Each side once a round. What a side does after its answer (cleaning up) is over before the next begins."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for number in range(rounds + WARM):
        took = await ours(executor, rootfs, number)
        sample = {"ours": took}
        for name, peer in peers.items():
            await asyncio.sleep(SETTLE)
            sample[name] = peer.run()
        await asyncio.sleep(SETTLE)
        if number >= WARM:  # the first rounds warm the caches of both sides
            for name, took in sample.items():
                times[name].append(took * 1e3)
    return times


async def in_rows(executor: Executor, rootfs: Path, rounds: int, peers: dict[str, Bare]) -> dict[str, list[float]]:
    """Rows of launches without a pause, each side in turn: caches and the kernel's lock on cgroups stay warm."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for row in range(0, rounds, ROW):
        times["ours"] += [await ours(executor, rootfs, 10**6 + row + number) * 1e3 for number in range(ROW)]
        await asyncio.sleep(SETTLE)
        for name, peer in peers.items():
            times[name] += [peer.run() * 1e3 for _ in range(ROW)]
    return times


def report(title: str, times: dict[str, list[float]], bounds: dict[str, float]) -> None:
    """Prints medians, spread and ratios."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        print(f"{title} {name:20} median {medians[name]:5.1f} ms  p10 {tenths[0]:5.1f}  p90 {tenths[-1]:5.1f}")
    for name in list(times)[1:]:
        print(f"{title} ours / {name}: {medians['ours'] / medians[name]:.2f} (bound {bounds[name]})")
    print(flush=True)


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    runtimes = sys.argv[2:] or list(BOUNDS)
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        for runtime in runtimes:
            if program := program_of(runtime):
                for durability in ("process", "power"):
                    await measure(runtime, program, rounds, durability, Path(scratch))
            else:
                print(f"{runtime} is not here")


if __name__ == "__main__":
    asyncio.run(main())
