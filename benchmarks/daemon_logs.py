"""Logs of a Docker daemon's containers: one GiB with a follower, and many containers followed at once from one caller.

Every byte is counted, and the caller's memory is looked at with each piece that comes. Beside it, before and after,
`docker run` of the same job into a pipe that is read and thrown away.

usage: python benchmarks/daemon_logs.py [MIB [CONTAINERS]]
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon import dockerd, missing
from dms_executor import ByteSize, ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, SpecConfig
from dms_executor.docker import DockerSpec
from roots import busybox_root
from throughput import resident, through_the_log, writer

EACH = 64 * 1024  # bytes of each container that is followed with others
UP = b"up\n"
AT_ONCE = 16  # containers that are begun together


async def followed(executor: Executor, image: str, count: int) -> None:
    """`count` containers that wait until all are followed, write, and end."""
    words = ["sh", "-c", f"trap 'exec lines {EACH}' USR1; echo up; while :; do sleep 60 & wait $!; done"]
    names = [f"many-{number}" for number in range(count)]
    gate = asyncio.Semaphore(AT_ONCE)
    peak = before = resident()

    async def begin(name: str) -> None:
        spec = DockerSpec(image=image, cmd=words).build()
        async with gate:
            await executor.start(ExecutionRequest(job_id="b", execution_id=name, engine_spec=spec))

    async def follow(name: str, up: asyncio.Semaphore) -> int:
        nonlocal peak
        got = 0
        async with await executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
            async for chunk in stream:
                if got < len(UP) <= got + len(chunk):
                    up.release()
                got += len(chunk)
                peak = max(peak, resident())
        return got - len(UP)

    began = time.perf_counter()
    await asyncio.gather(*map(begin, names))
    started = time.perf_counter() - began
    up = asyncio.Semaphore(0)
    following = [asyncio.create_task(follow(name, up)) for name in names]
    for _ in names:
        await up.acquire()
    began = time.perf_counter()
    for name in names:
        await executor.send_signal(name, "USR1")
    got = await asyncio.gather(*following)
    took = time.perf_counter() - began
    ended = [await executor.wait(name) for name in names]
    wrong = [
        name for name, size, result in zip(names, got, ended, strict=True) if (size, result.exit_code) != (EACH, 0)
    ]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {count} are not whole: {wrong[:5]}")
    growth = (peak - before) / 2**20
    print(f"{count} containers begun in {started:.1f} s; followed at once, {EACH >> 10} KiB each: {took:.1f} s")
    print(f"  every byte came; the caller grew by {growth:.1f} MiB", flush=True)


def docker_run(client: list[str], image: str, size: int) -> float:
    """Seconds."""
    began = time.perf_counter()
    words = [*client, "run", "--rm", "--network", "none", "--log-driver", "local", image, "lines", str(size)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None
        got = 0
        while chunk := child.stdout.read(2**18):
            got += len(chunk)
    if got != size:
        raise SystemExit(f"docker run gave {got} of {size} bytes")
    return time.perf_counter() - began


async def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    mib, count = (given + [1024, 200][len(given) :])[:2]
    if why := missing():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        root = busybox_root(Path(scratch))
        writer(root)
        with dockerd(root) as (client, image):
            settings = Settings(
                engines={"docker": {"socket": client[-1].removeprefix("unix://")}}, log_cap=ByteSize("4GiB")
            )

            def lines(size: int) -> SpecConfig:
                return DockerSpec(image=image, cmd=["lines", str(size)]).build()

            async with Executor.open(Path(scratch) / "state", policy=Policy.trusted(), settings=settings) as executor:
                await through_the_log(executor, lines(2**20), 2**20, "warm")
                size = mib * 2**20
                peers = [await asyncio.to_thread(docker_run, client, image, size)]
                took, growth = await through_the_log(executor, lines(size), size, "large")
                peers.append(await asyncio.to_thread(docker_run, client, image, size))
                print(f"{mib} MiB with a follower: {size / took / 1e6:.0f} MB/s", end=", ")
                print(f"docker run {' and '.join(f'{size / peer / 1e6:.0f}' for peer in peers)} MB/s")
                print(f"  the caller grew by {growth / 2**20:.1f} MiB", flush=True)
                await followed(executor, image, count)


if __name__ == "__main__":
    asyncio.run(main())
