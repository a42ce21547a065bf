"""The log that the shim writes: segments, cap, totals, a full disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import create

Job = Callable[..., ShimSpec]


async def run(folder: Path, spec: ShimSpec) -> None:
    shim = await create(folder, spec)
    await shim.go()
    async with asyncio.timeout(60):
        assert await shim.ended()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", mounted]).returncode:
        pytest.skip("cannot mount a tmpfs")
    yield mounted
    subprocess.run(["umount", "-l", mounted], check=True)


async def test_a_prompt_without_newline_is_there_at_once(folder: Path, job: Job, read_log: Any) -> None:
    held, told = os.pipe()
    shim = await create(folder, job("sh", "-c", "printf 'name? '; read x", stdin=held))
    os.close(held)
    await shim.go()

    def seen() -> bool:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if read_log(folder).data(1) == b"name? ":
                return True
        return False

    assert await asyncio.to_thread(seen)
    os.close(told)
    assert await shim.ended()


async def test_segments_follow_each_other_with_the_right_totals(folder: Path, job: Job, read_log: Any) -> None:
    script = "i=0; while [ $i -lt 4000 ]; do echo line $i; echo e >&2; i=$((i+1)); done"
    await run(folder, job("sh", "-c", script, log_cap=1 << 20, segment=8192))
    log = read_log(folder)
    assert log.data(1) == b"".join(b"line %d\n" % i for i in range(4000))
    assert len(log.segments) > 5
    out = err = 0
    for number, segment in enumerate(log.segments, start=1):
        assert (segment.number, segment.stdout_before, segment.stderr_before) == (number, out, err)
        out += sum(len(e.data) for e in segment.entries if e.kind == 1)
        err += sum(len(e.data) for e in segment.entries if e.kind == 2)
    assert max(p.stat().st_size for p in (folder / "log").iterdir()) <= 8192


async def test_past_the_cap_the_oldest_segments_go(folder: Path, job: Job, read_log: Any) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    await run(folder, job("sh", "-c", script, log_cap=65536, segment=16384))
    log, whole = read_log(folder), b"".join(b"line %d\n" % i for i in range(20000))
    first = log.segments[0]
    assert first.number > 1
    assert log.data(1) == whole[first.stdout_before :]
    assert sum(p.stat().st_size for p in (folder / "log").iterdir()) <= 65536
    assert log.whole


async def test_a_burst_is_complete(folder: Path, job: Job, read_log: Any) -> None:
    await run(folder, job("sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x"))
    assert read_log(folder).data(1) == b"x" * 30_000_000


async def test_a_full_disk_is_a_gap_and_blocks_nobody(small_disk: Path, job: Job, read_log: Any) -> None:
    await run(small_disk, job("sh", "-c", "head -c 2000000 /dev/zero; echo last >&2; exit 3", segment=65536))
    log = read_log(small_disk)
    assert log.lost(1) > 0
    assert len(log.data(1)) + log.lost(1) == 2_000_000
    assert len(log.data(2)) + log.lost(2) == len(b"last\n")
    ended = await asyncio.to_thread(read_exit, small_disk)
    assert ended is not None
    assert ended.code == 3


async def test_output_goes_on_once_there_is_room_again(small_disk: Path, job: Job, read_log: Any) -> None:
    ballast = small_disk / "ballast"
    script = f"head -c 300000 /dev/zero; rm {ballast}; sleep 0.1; echo after"
    ballast.write_bytes(b"x" * 150_000)
    folder = small_disk / "execution"
    folder.mkdir()
    await run(folder, job("sh", "-c", script))
    log = read_log(folder)
    assert log.data(1).endswith(b"after\n")
    assert len(log.data(1)) + log.lost(1) == 300_000 + len(b"after\n")
