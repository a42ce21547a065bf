"""1 GiB of 100-byte lines from a job through its log, with a follower attached; and the same into a plain pipe.

usage: python benchmarks/throughput.py [MIB]
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dms_executor import ByteSize, ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, SpecConfig
from dms_executor.oci import OciSpec
from roots import busybox_root

BOUND = 200
WRITER = r"""
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
/* Lines of 100 bytes, written as stdio would: 64 KiB at once. */
int main(int argc, char **argv) {
    static char block[65500];
    long long left = atoll(argv[1]);
    memset(block, 'x', sizeof block);
    for (unsigned i = 99; i < sizeof block; i += 100) block[i] = '\n';
    while (left > 0) {
        size_t want = left < (long long)sizeof block ? (size_t)left : sizeof block;
        ssize_t n = write(1, block, want);
        if (n <= 0) return 1;
        left -= n;
    }
    return 0;
}
"""


def writer(root: Path) -> None:
    """The job's program, static, into the root."""
    subprocess.run(
        ["cc", "-O2", "-static", "-x", "c", "-", "-o", str(root / "bin" / "lines")], input=WRITER.encode(), check=True
    )


def plain_pipe(root: Path, size: int) -> float:
    """The same program into a pipe that is read and thrown away; seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([str(root / "bin" / "lines"), str(size)], stdout=subprocess.PIPE, bufsize=0)
    got = 0
    while chunk := process.stdout.read(2**18):
        got += len(chunk)
    process.wait()
    if got != size:
        raise SystemExit(f"{got} of {size} bytes")
    return time.perf_counter() - began


async def through_the_log(executor: Executor, spec: SpecConfig, size: int, name: str) -> tuple[float, int]:
    """The job, which writes so many bytes, with a follower; seconds, and by how many bytes the caller's memory grew."""
    before = resident()
    peak = before
    began = time.perf_counter()
    await executor.start(ExecutionRequest(job_id="b", execution_id=name, engine_spec=spec))
    got = 0
    async with await executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
        async for chunk in stream:
            got += len(chunk)
            peak = max(peak, resident())
    result = await executor.wait(name)
    took = time.perf_counter() - began
    if (got, result.exit_code) != (size, 0):
        raise SystemExit(f"{got} of {size} bytes, {result.exit_code}, gaps {stream.gaps}")
    await executor.remove(name)
    return took, peak - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def main() -> None:
    size = (int(sys.argv[1]) if len(sys.argv) > 1 else 1024) * 2**20
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        root = busybox_root(Path(scratch))
        writer(root)
        settings = Settings(log_cap=ByteSize("4GiB"))

        def spec(length: int) -> SpecConfig:
            return OciSpec(image=f"rootfs:{root}", cmd=["lines", str(length)]).build()

        async with Executor.open(Path(scratch) / "state", policy=Policy.trusted(), settings=settings) as executor:
            await through_the_log(executor, spec(2**20), 2**20, "warm")
            for number in range(3):
                pipe = plain_pipe(root, size)
                took, growth = await through_the_log(executor, spec(size), size, f"r{number}")
                rate = size / took / 1e6
                print(f"log with a follower {rate:.0f} MB/s (bound {BOUND}), plain pipe {size / pipe / 1e6:.0f} MB/s")
                print(f"  ratio of times {took / pipe:.2f}, the caller grew by {growth / 2**20:.1f} MiB", flush=True)
                os.sync()


if __name__ == "__main__":
    asyncio.run(main())
