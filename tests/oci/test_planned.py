"""Engines of later releases tell what is missing, and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from dms_executor.engine import EngineContext
from dms_executor.errors import EngineUnavailable
from dms_executor.firecracker import FirecrackerEngine
from dms_executor.planned import PlannedEngine
from dms_executor.policy import Policy
from dms_executor.types import ExecutionRequest, SpecConfig


@pytest.mark.parametrize("kind", [FirecrackerEngine])
async def test_a_planned_engine(kind: type[PlannedEngine], tmp_path: Path) -> None:
    context = EngineContext(state_dir=tmp_path, executor_id="e", settings=None, policy=Policy())
    async with kind.open(context) as engine:
        probe = await engine.probe()
        assert not probe.usable
        assert "later release" in probe.problem
        assert probe.mend
        with pytest.raises(EngineUnavailable):
            await engine.validate(ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig()))
