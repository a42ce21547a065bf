"""Many executions in flight from one caller: what each costs while it sleeps, and that nothing is left of them.

usage: python benchmarks/flight.py [COUNT]
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from roots import busybox_root

BOUND = 2.0
REST = 10.0


def pss(pid: int | str) -> int:
    """Proportional set size of a process, bytes: its private memory and its share of what is shared."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int | str) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours() -> dict[str, list[str]]:
    """Pids of shims and inits, told by their names."""
    found: dict[str, list[str]] = {"dms-shim": [], "dms-init": [], "runtime": []}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = words[0].decode(errors="replace").rpartition("/")[2]
        if name == ".dms-executor-init":
            found["dms-init"].append(pid)
        elif name in found:
            found[name].append(pid)
        elif name in ("crun", "runc"):
            found["runtime"].append(pid)
    return found


async def measure(runtime: str, count: int, scratch: Path) -> None:
    rootfs = busybox_root(scratch)
    settings = Settings(engines={"oci": {"runtime": runtime}})
    before = {name: set(pids) for name, pids in ours().items()}
    async with Executor.open(scratch / f"state-{runtime}", policy=Policy.trusted(), settings=settings) as executor:
        spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["sleep", "100000"]).build()
        await executor.run(
            ExecutionRequest(
                job_id="b", execution_id="warm", engine_spec=OciSpec(image=f"rootfs:{rootfs}", cmd=["true"]).build()
            )
        )
        caller = pss("self")
        began = time.perf_counter()
        requests = [ExecutionRequest(job_id="b", execution_id=f"s{n}", engine_spec=spec) for n in range(count)]
        await asyncio.gather(*(executor.start(request) for request in requests))
        waiting = [asyncio.create_task(executor.wait(f"s{n}")) for n in range(count)]
        started = time.perf_counter() - began
        pids = {name: [pid for pid in pids if pid not in before[name]] for name, pids in ours().items()}
        sizes = {name: sum(map(pss, found)) for name, found in pids.items()}
        growth = pss("self") - caller
        cpu = await at_rest(pids)
        began = time.perf_counter()
        await asyncio.gather(*(executor.cancel(f"s{n}") for n in range(count)))
        results = await asyncio.gather(*waiting)
        await asyncio.gather(*(executor.remove(f"s{n}") for n in range(count)))
        ended = time.perf_counter() - began
    each = (sizes["dms-shim"] + sizes["dms-init"] + growth) / count
    left = {name: len(set(pids) - before[name]) for name, pids in ours().items()}
    kib = {name: size / count / 1024 for name, size in {**sizes, "caller": growth}.items()}
    print(f"{runtime}: {count} in flight; started in {started:.1f} s, cancelled and removed in {ended:.1f} s")
    print(f"  PSS each: shim {kib['dms-shim']:.0f} KiB, init {kib['dms-init']:.0f} KiB, caller {kib['caller']:.0f} KiB")
    print(f"  together {each / 2**20:.2f} MiB (bound {BOUND}); runtimes that stay: {len(pids['runtime'])}")
    print(f"  cpu of all at rest in {REST:.0f} s: {cpu:.2f} s")
    print(f"  cancelled: {sum(r.status == 'cancelled' for r in results)}; left: {left}\n", flush=True)


async def at_rest(pids: dict[str, list[str]]) -> float:
    """Processor seconds that shims, inits and the caller use while every job sleeps, this look at them left out."""
    others = [*pids["dms-shim"], *pids["dms-init"]]
    await asyncio.sleep(2.0)
    before = sum(map(cpu_seconds, others)) + cpu_seconds("self")
    await asyncio.sleep(REST)
    return cpu_seconds("self") + sum(map(cpu_seconds, others)) - before


async def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        for runtime in ("crun", "runc"):
            if shutil.which(runtime):
                await measure(runtime, count, Path(scratch))


if __name__ == "__main__":
    asyncio.run(main())
