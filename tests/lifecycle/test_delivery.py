"""`persist_logs=0`: the log goes with the delivery of the result."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionResult, Executor, LogStreamRequest
from dms_executor.errors import ResultExpired
from dms_executor.lifecycle import Core
from dms_executor.testing import MemorySpec

# As modules: the package gives functions of the same names.
finish, follow = sys.modules["dms_executor.lifecycle.finish"], sys.modules["dms_executor.lifecycle.follow"]


async def test_the_log_is_gone_from_disk_once_the_result_was_delivered(state_dir: Path) -> None:
    spec = MemorySpec(script=["echo a secret thing", "exit 3"]).build()
    async with Executor.open(state_dir) as executor:
        request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, persist_logs=0)
        assert (await executor.run(request)).stdout == b"a secret thing\n"
        logs = [path for path in state_dir.rglob("*") if path.is_file() and b"a secret thing" in path.read_bytes()]
        assert [path for path in logs if path.parent.name == "log"] == []
        with pytest.raises(ResultExpired):
            await executor.wait("e")
        with pytest.raises(ResultExpired):
            await executor.get_log_stream(LogStreamRequest(execution_id="e"))
        assert (await executor.inspect("e")).exit_code == 3


async def test_a_waiter_whose_log_goes_while_it_reads_has_the_whole_result(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MemorySpec(script=["echo a secret thing"]).build()
    async with Executor.open(state_dir) as executor:
        await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, persist_logs=0))
        await executor.wait_for_status("e", "success")
        while executor._core.live:
            await asyncio.sleep(0.01)
        reading = follow.with_output

        async def late(core: Core, result: ExecutionResult, token: str) -> ExecutionResult:
            monkeypatch.setattr(follow, "with_output", reading)
            monkeypatch.setattr(finish, "with_output", reading)
            assert (await executor.wait("e")).stdout == b"a secret thing\n"  # another waiter, who is quicker
            whole: ExecutionResult = await reading(core, result, token)
            return whole

        monkeypatch.setattr(follow, "with_output", late)
        monkeypatch.setattr(finish, "with_output", late)
        assert (await executor.wait("e")).stdout == b"a secret thing\n"
