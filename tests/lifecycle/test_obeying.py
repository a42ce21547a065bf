"""A cancel by another process reaches those that prepare here: each that is meant, whenever it began, and no other."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy, registry
from dms_executor.errors import ExecutionCancelled
from dms_executor.testing import MemoryEngine, MemorySpec

WITHIN = 60.0


def slow(name: str) -> ExecutionRequest:
    return ExecutionRequest(job_id="j", execution_id=name, engine_spec=MemorySpec(prepare=3600.0).build())


async def cancel_elsewhere(state_dir: Path, *names: str) -> int:
    """`dms-executor cancel` in a process of its own."""
    command = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(state_dir), "cancel", *names]
    child = await asyncio.create_subprocess_exec(*command)
    return await child.wait()


async def test_a_cancel_elsewhere_stops_those_that_prepare(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {"memory": MemoryEngine})
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        tasks = {name: asyncio.create_task(executor.start(slow(name))) for name in ("one", "two", "three")}
        for name in tasks:
            while not [info for info in await executor.list() if info.request.execution_id == name]:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(WITHIN):
            assert await cancel_elsewhere(state_dir, "one", "two") == 0
            for name in ("one", "two"):
                with pytest.raises(ExecutionCancelled):
                    await tasks[name]
        assert not tasks["three"].done()
        tasks["late"] = asyncio.create_task(executor.start(slow("late")))
        async with asyncio.timeout(WITHIN):
            while len(await executor.list(statuses=["pending"])) < 2:
                await asyncio.sleep(0.01)
            assert await cancel_elsewhere(state_dir, "late") == 0
            with pytest.raises(ExecutionCancelled):
                await tasks["late"]
            assert not tasks["three"].done()
            await executor.cancel("three")
            with pytest.raises(ExecutionCancelled):
                await tasks["three"]
