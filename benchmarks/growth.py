"""What history costs: each call on a state folder with few finished executions, and on one with many.

usage: python benchmarks/growth.py [COUNT [ROUNDS]]

The history is made through the public interface, by jobs of the in-memory engine with a log each. The two folders are
measured in turn in one run; one execution of the `oci` engine is alive in each, which opening adopts.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, SpecConfig
from dms_executor.oci import OciSpec
from roots import busybox_root

FEW = 100  # a page: who asks for 100 gets 100 of both
LINES = 20
AT_ONCE = 32
SETTINGS = Settings(durability="process")


def remembered(name: str) -> ExecutionRequest:
    """A job of the in-memory engine with a log of some lines."""
    script = [f"echo line {number}" for number in range(LINES)]
    spec = SpecConfig(type="memory", params={"script": script})
    return ExecutionRequest(job_id=f"job-{name}", execution_id=name, engine_spec=spec, labels={"of": "history"})


async def make_history(folder: Path, count: int, root: Path) -> None:
    """`count` finished executions, one to ask for, and one that is alive."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with Executor.open(folder, policy=Policy.trusted(), settings=SETTINGS) as executor:

        async def one(name: str) -> None:
            async with gate:
                await executor.run(remembered(name))

        await asyncio.gather(*[one(f"h{number}") for number in range(count)])
        await executor.run(remembered("asked"))
        alive = OciSpec(image=f"rootfs:{root}", cmd=["sleep", "100000"]).build()
        await executor.start(ExecutionRequest(job_id="alive", execution_id="alive", engine_spec=alive))


async def end_alive(folder: Path) -> None:
    """Takes away what the measurement left running."""
    async with Executor.open(folder, policy=Policy.trusted(), settings=SETTINGS) as executor:
        await executor.remove("alive", force=True)


async def read_log(executor: Executor) -> None:
    """The whole log of one finished execution."""
    async with await executor.get_log_stream(LogStreamRequest(execution_id="asked")) as stream:
        assert (await stream.read()).count(b"\n") == LINES


async def run_one(executor: Executor) -> None:
    """A new execution from request to result, and away again."""
    await executor.run(remembered("new"))
    await executor.remove("new")


CALLS: dict[str, Callable[[Executor], Awaitable[object]]] = {
    "list of what is alive": lambda executor: executor.list(statuses=["pending", "running", "paused"]),
    "list of one job": lambda executor: executor.list(job_id="job-asked"),
    "list, the first 100": lambda executor: executor.list(limit=100),
    "list, the newest 100": lambda executor: executor.list(limit=100, newest_first=True),
    "status": lambda executor: executor.get_status("asked"),
    "inspect": lambda executor: executor.inspect("asked"),
    "wait": lambda executor: executor.wait("asked"),
    "log": read_log,
    "run and remove": run_one,
}


async def opened(folder: Path) -> float:
    """Seconds until `open` gives an executor, with one execution to adopt."""
    began = time.perf_counter()
    async with Executor.open(folder, policy=Policy.trusted(), settings=SETTINGS):
        return time.perf_counter() - began


def command(folder: Path, *words: str) -> float:
    """Seconds of a whole process of the command line."""
    began = time.perf_counter()
    line = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(folder), *words]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


async def timed(executor: Executor, call: Callable[[Executor], Awaitable[object]]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    await call(executor)
    return time.perf_counter() - began


async def measure(folders: list[Path], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds by call, by folder; a round asks each folder once."""
    took: dict[str, list[list[float]]] = {}

    def note(name: str, place: int, seconds: float) -> None:
        took.setdefault(name, [[] for _ in folders])[place].append(seconds)

    for number in range(rounds + 1):  # the first warms up
        for place, folder in enumerate(folders):
            seconds = {"open": await opened(folder)}
            async with Executor.open(folder, policy=Policy.trusted(), settings=SETTINGS) as executor:
                for name, call in CALLS.items():
                    seconds[name] = await timed(executor, call)
            seconds["dms-executor ps"] = command(folder, "ps")
            seconds["dms-executor ps -n 10"] = command(folder, "ps", "-n", "10")
            for name, value in seconds.items() if number else ():
                note(name, place, value)
    return took


async def main(count: int, rounds: int) -> None:
    """Prints a table in Markdown."""
    with tempfile.TemporaryDirectory(prefix="dms-growth-") as scratch:
        root = busybox_root(Path(scratch))
        folders = [Path(scratch, "few"), Path(scratch, "full")]
        for folder, size in zip(folders, (FEW, count), strict=True):
            began = time.perf_counter()
            await make_history(folder, size, root)
            print(f"{size} finished executions made in {time.perf_counter() - began:.0f} s", flush=True)
        try:
            took = await measure(folders, rounds)
        finally:
            for folder in folders:
                await end_alive(folder)
        print(f"\n| ms, median of {rounds} | {FEW} finished | {count} finished | ratio |\n|---|---|---|---|")
        for name, (few, many) in took.items():
            before, after = statistics.median(few) * 1e3, statistics.median(many) * 1e3
            print(f"| {name} | {before:.2f} | {after:.2f} | {after / before:.2f} |")
        async with Executor.open(folders[1], policy=Policy.trusted(), settings=SETTINGS) as executor:
            print(f"\ncleanup with nothing to do: {await timed(executor, Executor.cleanup) * 1e3:.0f} ms")
            print(f"list of all: {await timed(executor, Executor.list) * 1e3:.0f} ms")
        print(f"database: {(folders[1] / 'journal.db').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(given + [10_000, 15][len(given) :])))
