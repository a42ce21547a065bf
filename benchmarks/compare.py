"""Contestants measured in turn in one run, A B C A B C, and what is said of their times: medians, ratios by pairs."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

__all__ = ["Run", "Times", "in_rows", "in_turn", "per_second", "report"]

Run = Callable[[], Awaitable[float]]
"""One piece of the work, by one contestant: its seconds. Raises Failed where it was not done rightly."""

Times = dict[str, list[float]]
"""Milliseconds by contestant, in the order of the rounds."""

WARM = 5
SETTLE = 0.04
ROW = 10


async def in_turn(contestants: Mapping[str, Run], rounds: int, *, warm: int = WARM) -> Times:
    """Each once a round. What one does after its answer (cleaning up) is over before the next begins."""
    times: Times = {name: [] for name in contestants}
    for number in range(rounds + warm):
        for name, run in contestants.items():
            took = await run()
            await asyncio.sleep(SETTLE)
            if number >= warm:  # the first rounds warm the caches of all
                times[name].append(took * 1e3)
    return times


async def in_rows(contestants: Mapping[str, Run], rounds: int) -> Times:
    """Rows of ten without a pause, each contestant in turn: caches and the kernel's lock on cgroups stay warm."""
    times: Times = {name: [] for name in contestants}
    for _ in range(0, rounds, ROW):
        for name, run in contestants.items():
            await run()
            times[name] += [await run() * 1e3 for _ in range(ROW)]
            await asyncio.sleep(SETTLE)
    return times


async def per_second(run: Run, in_flight: int, jobs: int) -> float:
    """How many are done in a second where as many are always in flight."""
    left = iter(range(jobs))

    async def worker() -> None:
        for _ in left:
            await run()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return jobs / (time.perf_counter() - began)


def report(title: str, times: Times, pairs: Mapping[str, list[str]]) -> None:
    """Prints medians and spread; and for each contestant of `pairs` its ratio to those named there, round by round."""
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        middle = statistics.median(values)
        print(f"{title}: {name:22} median {middle:6.2f} ms  p10 {tenths[0]:6.2f}  p90 {tenths[-1]:6.2f}")
    for name, peers in pairs.items():
        for peer in peers:
            if name in times and peer in times:
                ratios = [ours / bare for ours, bare in zip(times[name], times[peer], strict=True)]
                of_medians = statistics.median(times[name]) / statistics.median(times[peer])
                print(f"{title}: {name} / {peer}: {statistics.median(ratios):.2f} ({of_medians:.2f} of the medians)")
    print(flush=True)
