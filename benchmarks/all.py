"""Every contestant on the same work in one run, into `docs/benchmarks/` or another folder.

`echo hi` in a busybox root without a network, from launch to result; and in a job that runs. Contestants: this package
on crun and on runc, the bare runtimes, the docker client, docker-py, aiodocker, podman, and asyncio's own subprocess,
which isolates nothing. Who is not installed is named as missing.

usage: python benchmarks/all.py [ROUNDS [FOLDER]]
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import exec as execs
import peers
from bare import Bare
from compare import Run, in_turn, per_second
from dms_executor import Executor, Policy, Settings
from launch import bundle_of, ours
from published import Rates, Workload, write
from roots import busybox_root

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
RUNTIMES = ("crun", "runc")
FLIGHTS = ((1, 8), (4, 16), (16, 32))  # how many at once, of how many
ALONE = ("crun run", "runc run")  # each of those has the whole process wait for it


async def launched_by_us(runtime: str, scratch: Path, stack: contextlib.AsyncExitStack) -> dict[str, Run]:
    """`Executor.run`, and the bare runtime's own of the same bundle."""
    rootfs, state = busybox_root(scratch), scratch / f"launch-{runtime}"
    settings = Settings(engines={"oci": {"runtime": runtime}})
    executor = await stack.enter_async_context(Executor.open(state, policy=Policy.trusted(), settings=settings))
    bundle = await bundle_of(executor, state, rootfs, scratch / f"bundle-{runtime}", init=True)
    bare = Bare(runtime, rootfs, bundle, scratch)
    count = iter(range(10**9))

    async def us() -> float:
        return await ours(executor, rootfs, next(count))

    async def theirs() -> float:
        return bare.run()

    return {f"ours, {runtime}": us, f"{runtime} run": theirs}


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER
    missing: dict[str, str] = {}
    launches: dict[str, Run] = {}
    commands: dict[str, Run] = {}
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)
        async with contextlib.AsyncExitStack() as stack:
            for runtime in RUNTIMES:
                if shutil.which(runtime) is None:
                    missing[runtime] = "not installed"
                    continue
                launches.update(await launched_by_us(runtime, scratch, stack))
                commands.update(await stack.enter_async_context(execs.job_of(runtime, scratch)))
            launches.update(await peers.launched(busybox_root(scratch), scratch, stack, missing))
            commands.update(stack.enter_context(execs.docker_of(scratch)))
            found = [
                workload("Launch to result", "`echo hi` in a new container.", await in_turn(launches, rounds)),
                workload("A command in a running job", "`echo hi` by exec.", await in_turn(commands, rounds)),
            ]
            together = {name: run for name, run in launches.items() if name not in ALONE}
            rates = {n: {name: await per_second(run, n, jobs) for name, run in together.items()} for n, jobs in FLIGHTS}
    write(folder, found, [Rates("Jobs per second", "The launches from above, several at once.", rates)], missing)
    print((folder / "results.md").read_text())


def workload(name: str, what: str, times: dict[str, list[float]]) -> Workload:
    return Workload(name, what, times, [contestant for contestant in times if contestant.startswith("ours")])


if __name__ == "__main__":
    asyncio.run(main())
