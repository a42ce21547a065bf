"""Where no engine is usable, the error says how the one that would be taken is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, SpecConfig
from dms_executor.errors import EngineUnavailable
from dms_executor.lifecycle import core
from dms_executor.planned import Missing, PlannedEngine
from dms_executor.registry import register


class First(PlannedEngine):
    name = "first"
    rank = 1

    async def look(self) -> Missing:
        return Missing(problem="no runtime in PATH", mend="apt-get install crun.")


class Second(PlannedEngine):
    name = "second"
    rank = 2

    async def look(self) -> Missing:
        return Missing(problem="no daemon", mend="Start it")


async def test_the_first_engines_mend_is_the_errors(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (First, Second):
        register(engine)
    monkeypatch.setattr(core, "_by_rank", lambda: [First, Second])
    async with Executor.open(state_dir) as executor:
        with pytest.raises(EngineUnavailable) as caught:
            await executor.run(ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig()))
        assert await executor.list() == []
    assert "first: no runtime in PATH" in caught.value.message
    assert "second: no daemon" in caught.value.message
    assert caught.value.mend.startswith("apt-get install crun.")
    assert "dms-executor engines" in caught.value.mend
