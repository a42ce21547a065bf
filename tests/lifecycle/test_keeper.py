"""A timeout holds while no caller lives, also on an engine that keeps none."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from datetime import datetime
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor
from dms_executor.engine import Execution, Handle
from dms_executor.testing import MemoryEngine, MemorySpec

CALLER = """
import asyncio, sys
from dms_executor import ExecutionRequest, Executor
from dms_executor.testing import MemorySpec
async def main():
    async with Executor.open(sys.argv[1]) as executor:
        spec = MemorySpec(script=["echo hi", "forever"]).build()
        await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, timeout=1.0))
        print("started", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def keepers(state: Path) -> list[str]:
    """Command lines that name a folder of this state folder."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{state}/executions/" in words:
            found.append(words)
    return found


async def test_the_end_is_recorded_though_no_caller_lives(state_dir: Path) -> None:
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CALLER, str(state_dir)), stdout=asyncio.subprocess.PIPE
    )
    if caller.stdout is None:
        raise RuntimeError("no pipe")
    assert await caller.stdout.readline() == b"started\n"
    caller.send_signal(signal.SIGKILL)
    await caller.wait()
    # Read beside the package: opening the folder would settle it, and that must have happened without us.
    database = sqlite3.connect(f"file:{state_dir}/journal.db?mode=ro", uri=True)
    async with asyncio.timeout(30):
        while (found := database.execute("SELECT status, reason FROM executions").fetchone())[0] == "running":
            await asyncio.sleep(0.05)
    database.close()
    # The in-memory engine's job died with its process; what counts is that somebody looked when the time had come.
    assert found == ("failed", "engine_lost")


async def test_an_execution_that_ends_leaves_no_keeper(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        spec = MemorySpec(script=["sleep 0.2"]).build()
        request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, timeout=60)
        running = asyncio.create_task(executor.run(request))
        await executor.wait_for_status("e", "running") if await _exists(executor, "e") else None
        assert len(await asyncio.to_thread(keepers, state_dir)) == 1
        assert (await running).status is ExecutionStatus.SUCCESS
    assert await asyncio.to_thread(keepers, state_dir) == []


async def test_who_takes_an_execution_over_ends_its_keeper_with_it(state_dir: Path) -> None:
    script = CALLER.replace("timeout=1.0", "timeout=3600.0")
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(state_dir)), stdout=asyncio.subprocess.PIPE
    )
    if caller.stdout is None:
        raise RuntimeError("no pipe")
    assert await caller.stdout.readline() == b"started\n"
    assert len(await asyncio.to_thread(keepers, state_dir)) == 1
    caller.send_signal(signal.SIGKILL)
    await caller.wait()
    async with Executor.open(state_dir) as executor:
        # The in-memory engine's job died with its process.
        assert (await executor.wait("e")).reason == "engine_lost"
        async with asyncio.timeout(20):
            while await asyncio.to_thread(keepers, state_dir):
                await asyncio.sleep(0.02)


async def _exists(executor: Executor, execution_id: str) -> bool:
    """Waits until the claim is there."""
    async for event in executor.events(after=0):
        if event.execution_id == execution_id:
            return True
    return False


async def test_a_keeper_waits_for_a_start_that_takes_longer_than_the_timeout(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = asyncio.Event()
    start = MemoryEngine.start

    async def slow(self: MemoryEngine, x: Execution, h: Handle) -> datetime:
        await let_go.wait()
        return await start(self, x, h)

    monkeypatch.setattr(MemoryEngine, "start", slow)
    async with Executor.open(state_dir) as executor:
        spec = MemorySpec(script=["forever"]).build()
        request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, timeout=0.2)
        starting = asyncio.create_task(executor.start(request))
        async with asyncio.timeout(20):
            while len(await asyncio.to_thread(os.listdir, state_dir / "owners")) < 2:
                await asyncio.sleep(0.05)  # until the keeper has opened the folder
        await asyncio.sleep(1)
        assert len(await asyncio.to_thread(keepers, state_dir)) == 1, "should we die once it runs, its timeout holds"
        let_go.set()
        await starting
        assert (await executor.wait("e")).status is ExecutionStatus.FAILED
