"""The workloads of logs: how much goes through with so many followers, and how soon a line is with its reader."""

from __future__ import annotations

import asyncio
import functools
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import peers
from compare import Run
from dms_executor import LogStreamRequest
from failed import Failed
from field import Field, Ours, compiled
from published import Workload

__all__ = ["first_line", "latencies", "throughputs"]


async def first_line(ours: Ours, name: str) -> None:
    """Returns once the job has written something."""
    async with await ours.executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
        async for _ in stream:
            return


async def counted(ours: Ours, name: str) -> int:
    got = 0
    async with await ours.executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
        async for chunk in stream:
            got += len(chunk)
    return got


async def through(field: Field, ours: Ours, followers: int) -> float:
    """Seconds of a job that writes, until its end is known and every follower has all of it."""
    name, size = field.name(), field.size.log_bytes
    began = time.perf_counter()
    await ours.executor.start(ours.request(name, ["bench", "lines", str(size)]))
    got = await asyncio.gather(*(counted(ours, name) for _ in range(followers)))
    result = await ours.executor.wait(name)
    took = time.perf_counter() - began
    if result.exit_code or any(one != size for one in got):
        raise Failed(f"{got} of {size} bytes, {result.exit_code}")
    await ours.executor.remove(name)
    return took


def others(field: Field, *words: str) -> dict[str, list[str]]:
    """Whole commands whose stdout is the job's."""
    found = {"plain pipe, no isolation": [str(field.root / "bin" / "bench"), *words]}
    if field.client:
        found["docker run"] = [*field.client, "run", "--rm", "--network", "none", field.image, "bench", *words]
    if podman := shutil.which("podman"):
        found["podman run"] = [*peers.podman_of(podman, field.root, field.scratch)[:-2], "bench", *words]
    return found


async def lines_of(command: list[str]) -> AsyncIterator[bytes]:
    """Pieces of its stdout as they come. Raises Failed where it fails."""
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        while child.stdout is not None and (data := await child.stdout.read(1 << 18)):
            yield data
        if await child.wait():
            raise Failed(f"{command[0]} failed: {child.returncode}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def piped(command: list[str], size: int) -> float:
    began, got = time.perf_counter(), 0
    async with aclosing(lines_of(command)) as pieces:
        async for data in pieces:
            got += len(data)
    if got != size:
        raise Failed(f"{got} of {size} bytes")
    return time.perf_counter() - began


async def throughputs(field: Field) -> list[Workload]:
    compiled(field.root)
    size = field.size.log_bytes
    found = []
    for followers in (0, 1, 10):
        contestants: dict[str, Run] = {
            one.name: functools.partial(through, field, one, followers) for one in field.ours
        }
        if followers == 1:
            commands = others(field, "lines", str(size))
            contestants.update({name: functools.partial(piped, words, size) for name, words in commands.items()})
        times = await field.in_turn(contestants, max(field.size.rounds // 10, 1))
        rates = {name: [size / value / 1e3 for value in of] for name, of in times.items()}
        what = (
            f"A job writes {size / 1e6:.0f} MB in lines of 100 bytes; from its start until it has ended and each of "
            f"{followers} followers has all of it. The others' reader is a pipe at the client."
        )
        found.append(Workload(f"log-{followers}", f"Log throughput, {followers} followers", what, rates, "MB/s", True))
    return found


async def ages(pieces: AsyncIterator[bytes], into: list[float]) -> float:
    """How old each line is when it comes here."""
    rest = b""
    async for data in pieces:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        *lines, rest = (rest + data).split(b"\n")
        into += [(now - int(line)) / 1e9 for line in lines]
    return sum(into)


async def our_ages(field: Field, ours: Ours, into: list[float]) -> float:
    name = field.name()
    await ours.executor.start(ours.request(name, ["bench", "clock", str(field.size.lines)]))
    async with await ours.executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:

        async def pieces() -> AsyncIterator[bytes]:
            async for chunk in stream:
                yield bytes(chunk)

        took = await ages(pieces(), into)
    await ours.executor.wait(name)
    await ours.executor.remove(name)
    return took


async def latencies(field: Field) -> list[Workload]:
    compiled(field.root)
    seen: dict[str, list[float]] = {}
    contestants: dict[str, Run] = {}

    def contestant(name: str, run: Run) -> None:
        contestants[name] = run

    for ours in field.ours:
        contestant(ours.name, functools.partial(our_ages, field, ours, seen.setdefault(ours.name, [])))
    for name, words in others(field, "clock", str(field.size.lines)).items():
        into = seen.setdefault(name, [])

        async def theirs(words: list[str] = words, into: list[float] = into) -> float:
            return await ages(lines_of(words), into)

        contestant(name, theirs)
    rounds = max(field.size.rounds // 10, 1)
    ran = await field.in_turn(contestants, rounds)
    # The first round warms up; and a job's first line waits for its reader, which is the launch's time.
    times = {name: _warm(seen[name], field.size.lines, rounds) for name in ran}
    what = (
        "A job writes a line each 5 ms; from before its `write` until the line is in the hands of the reader (ours: a "
        "follower of the log in the caller; the others: a pipe at the client). The first fifth of a job's lines is "
        "left out."
    )
    return [Workload("line", "From a line written to a line received", what, times)]


def _warm(seen: list[float], lines: int, rounds: int) -> list[float]:
    """Milliseconds of the rounds that count."""
    return [age * 1e3 for number, age in enumerate(seen[-lines * rounds :]) if number % lines >= lines // 5]
