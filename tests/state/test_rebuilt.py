"""A damaged database is rebuilt from the folders: what else than rows was in it, and who has it open meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from dms_executor import Event, ExecutionRequest, Executor, Settings
from dms_executor.errors import ResultExpired
from dms_executor.testing import MemorySpec


def request(execution_id: str, *script: str, persist_logs: float | None = None) -> ExecutionRequest:
    spec = MemorySpec(script=list(script)).build()
    return ExecutionRequest(job_id="j", execution_id=execution_id, engine_spec=spec, persist_logs=persist_logs)


def damage(state: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (state / f"journal.db{suffix}").unlink(missing_ok=True)
    (state / "journal.db").write_bytes(os.urandom(8192))


async def events(executor: Executor, count: int, after: int = 0) -> list[Event]:
    found = []
    async with asyncio.timeout(20):
        async for event in executor.events(after=after):
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_events_go_on_behind_all_that_were(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.run(request("one", "exit 3"))
        seen = await events(executor, 3)
    damage(state_dir)
    async with Executor.open(state_dir) as executor:
        await executor.run(request("two", "exit 0"))
        later = await events(executor, 6, after=seen[-1].sequence)
        told = [(event.execution_id, event.status.value) for event in later]
        assert told[:3] == [("one", "pending"), ("one", "running"), ("one", "failed")], "the past can be replayed"
        assert told[3:] == [("two", "pending"), ("two", "running"), ("two", "success")]
        assert later[2].reason == "exited"
        assert later[2].time == seen[2].time or later[2].time <= later[3].time
        numbers = [event.sequence for event in later]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > seen[-1].sequence


async def test_what_was_delivered_or_expired_stays_so(state_dir: Path) -> None:
    async with Executor.open(state_dir, settings=Settings(retention=0.0)) as executor:
        await executor.run(request("delivered", "echo hi", persist_logs=0))
        await executor.run(request("expired", "echo hi"))
        await executor.run(request("kept", "echo hi", persist_logs=1000.0))
        await executor.cleanup()
    damage(state_dir)
    async with Executor.open(state_dir) as executor:
        for name in ("delivered", "expired"):
            with pytest.raises(ResultExpired):
                await executor.wait(name)
        assert (await executor.wait("kept")).stdout == b"hi\n"


async def test_of_two_folders_of_one_id_the_newer_counts(state_dir: Path, tmp_path: Path) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.run(request("one", "exit 3"))
        (former,) = (state_dir / "executions").iterdir()
        await asyncio.to_thread(shutil.copytree, former, tmp_path / "kept")
        await executor.remove("one")
        await executor.run(request("one", "exit 4"))
    # A removal that could not take the folder away.
    await asyncio.to_thread(shutil.copytree, tmp_path / "kept", former)
    damage(state_dir)
    async with Executor.open(state_dir) as executor:
        assert (await executor.wait("one")).exit_code == 4
        assert len(await executor.list()) == 1


OTHER = """
import asyncio, sys
from dms_executor import ExecutionRequest, Executor
from dms_executor.testing import MemorySpec
async def main():
    async with Executor.open(sys.argv[1]) as executor:
        def request(name, *script):
            spec = MemorySpec(script=list(script)).build()
            return ExecutionRequest(job_id="j", execution_id=name, engine_spec=spec)
        await executor.start(request("alive", "echo hi", "sleep 2", "exit 5"))
        print("started", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await executor.run(request("later", "exit 6"))
        await executor.wait("alive")
        print("ended", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


async def test_a_living_process_goes_on_in_the_rebuilt_one(state_dir: Path) -> None:
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER, str(state_dir)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    if other.stdout is None or other.stdin is None:
        raise RuntimeError("no pipes")
    assert await other.stdout.readline() == b"started\n"
    damage(state_dir)
    async with Executor.open(state_dir) as executor:
        # Its job is its own still, and runs.
        assert await executor.get_status("alive") == "running"
        other.stdin.write(b"\n")
        assert await other.stdout.readline() == b"ended\n"
        assert (await executor.wait("alive")).exit_code == 5
        assert (await executor.wait("later")).exit_code == 6
        assert [info.request.execution_id for info in await executor.list()] == ["alive", "later"]
        await other.communicate(b"\n")
    assert len([path for path in state_dir.glob("journal.db.damaged-*") if path.suffix not in ("-wal", "-shm")]) >= 1
