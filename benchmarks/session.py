"""1 GiB into `cat` and out of it again: a session in a job, and the same program as a bare child of asyncio's.

usage: python benchmarks/session.py [MIB [ROUNDS]]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from roots import busybox_root
from throughput import resident

BLOCK = bytes(1 << 20)
READ = 1 << 16


async def pumped(
    size: int, write: Callable[[bytes], Awaitable[object]], close: Callable[[], object], output: AsyncIterator[bytes]
) -> tuple[float, int]:
    """MB/s through `write` and `output`, and by how many bytes this process grew at most meanwhile."""
    before = peak = resident()

    async def feed() -> None:
        for _ in range(size // len(BLOCK)):
            await write(BLOCK)
        close()

    began, got = time.perf_counter(), 0
    feeding = asyncio.create_task(feed())
    async for data in output:
        got += len(data)
        peak = max(peak, resident())
    await feeding
    if got != size:
        raise SystemExit(f"{got} of {size} bytes")
    return size / (time.perf_counter() - began) / 1e6, peak - before


async def in_a_session(executor: Executor, size: int) -> tuple[float, int]:
    async with await executor.exec_session("job", ["cat"]) as session:

        async def output() -> AsyncIterator[bytes]:
            async for _, data in session:
                yield data

        measured = await pumped(size, session.write, session.close_stdin, output())
        if await session.wait() != 0:
            raise SystemExit("cat failed")
        return measured


async def in_a_child(root: Path, size: int) -> tuple[float, int]:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(root / "bin" / "busybox", "cat", stdin=pipe, stdout=pipe)
    stdin, stdout = child.stdin, child.stdout
    if stdin is None or stdout is None:
        raise SystemExit("no pipes")

    async def write(data: bytes) -> None:
        stdin.write(data)
        await stdin.drain()

    async def output() -> AsyncIterator[bytes]:
        while data := await stdout.read(READ):
            yield data

    measured = await pumped(size, write, stdin.close, output())
    await child.wait()
    return measured


async def main() -> None:
    size = (int(sys.argv[1]) if len(sys.argv) > 1 else 1024) << 20
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        root = busybox_root(Path(scratch))
        spec = OciSpec(image=f"rootfs:{root}", cmd=["sleep", "3600"]).build()
        async with Executor.open(Path(scratch) / "state", policy=Policy.trusted(), settings=Settings()) as executor:
            await executor.start(ExecutionRequest(job_id="b", execution_id="job", engine_spec=spec))
            await in_a_session(executor, 16 << 20)
            ratios = []
            for _ in range(rounds):
                ours, grown = await in_a_session(executor, size)
                bare, _ = await in_a_child(root, size)
                ratios.append(bare / ours)
                print(f"session {ours:.0f} MB/s, the caller grew by {grown / 2**20:.1f} MiB; bare {bare:.0f} MB/s")
            print(f"times, session / bare: {statistics.median(ratios):.2f}")
            await executor.remove("job", force=True)


if __name__ == "__main__":
    asyncio.run(main())
