"""A timeout holds while no caller lives, also on an engine that keeps none."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

from dms_executor import ExecutionRequest, ExecutionStatus, Executor
from dms_executor.testing import MemorySpec

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


async def _exists(executor: Executor, execution_id: str) -> bool:
    """Waits until the claim is there."""
    async for event in executor.events(after=0):
        if event.execution_id == execution_id:
            return True
    return False
