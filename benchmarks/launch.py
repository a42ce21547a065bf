"""Launch to result of `echo hi`: this package against the bare runtime's own `run` of the same bundle, in turn.

usage: python benchmarks/launch.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bare import Bare, bare_config
from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from roots import busybox_root

BOUNDS = {"crun": 1.6, "runc": 1.25}


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
        raise SystemExit(f"our side failed: {result}")
    return took


async def measure(runtime: str, rounds: int, durability: str, scratch: Path) -> None:
    rootfs = busybox_root(scratch)
    state = scratch / f"state-{runtime}-{durability}"
    settings = Settings(engines={"oci": {"runtime": runtime}}, durability=durability)
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        plain = await bundle_of(executor, state, rootfs, scratch / f"{runtime}-{durability}-plain", init=True)
        filtered = await bundle_of(executor, state, rootfs, scratch / f"{runtime}-{durability}-seccomp", init=False)
        bare, bare_filtered = (Bare(runtime, rootfs, config, scratch) for config in (plain, filtered))
        times: dict[str, list[float]] = {"ours": [], "bare": [], "bare with its filter": []}
        for number in range(rounds + 5):
            sample = {
                "ours": await ours(executor, rootfs, number),
                "bare": bare.run(),
                "bare with its filter": bare_filtered.run(),
            }
            if number >= 5:  # the first rounds warm the caches of both sides
                for name, took in sample.items():
                    times[name].append(took)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    for name, median in medians.items():
        spread = statistics.quantiles([value * 1e3 for value in times[name]], n=10)
        print(
            f"{runtime:5} {durability:8} {name:22} median {median:6.1f} ms   p10 {spread[0]:6.1f}   p90 {spread[-1]:6.1f}"
        )
    ratio, filtered_ratio = medians["ours"] / medians["bare"], medians["ours"] / medians["bare with its filter"]
    print(
        f"{runtime:5} {durability:8} ratio {ratio:.2f} (bound {BOUNDS[runtime]}), with its filter {filtered_ratio:.2f}\n"
    )


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        for runtime in ("crun", "runc"):
            if shutil.which(runtime):
                for durability in ("process", "power"):
                    await measure(runtime, rounds, durability, Path(scratch))


if __name__ == "__main__":
    asyncio.run(main())
