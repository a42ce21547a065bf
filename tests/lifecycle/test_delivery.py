"""`persist_logs=0`: the log goes with the delivery of the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, LogStreamRequest
from dms_executor.errors import ResultExpired
from dms_executor.testing import MemorySpec


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
