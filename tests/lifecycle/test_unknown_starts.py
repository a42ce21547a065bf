"""A start of which nobody can tell whether it let its job go: what is recorded is what became of that."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.engine import Execution, Handle
from dms_executor.errors import EngineUnreachable

from .stand_in import StandIn, request

WITHIN = 60.0


async def test_a_job_that_was_let_go_all_the_same_runs_to_its_end(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = stand_in.start

    async def unheard(self: StandIn, x: Execution, h: Handle) -> datetime:
        await start(self, x, h)
        raise EngineUnreachable("no answer")

    monkeypatch.setattr(stand_in, "start", unheard)
    async with Executor.open(state_dir) as executor:
        with pytest.raises(EngineUnreachable, match="no answer"):
            await executor.run(request("one", "echo hi", "exit 3"))
        result = await asyncio.wait_for(executor.wait("one"), WITHIN)
        assert (result.reason, result.exit_code, result.stdout) == ("exited", 3, b"hi\n"), result


async def test_one_that_was_not_is_a_failed_start(state_dir: Path, stand_in: type[StandIn]) -> None:
    stand_in.failing["start"] = EngineUnreachable("no answer")
    async with Executor.open(state_dir) as executor:
        with pytest.raises(EngineUnreachable, match="no answer"):
            await executor.run(request("one", "echo hi", "exit 3"))
        result = await asyncio.wait_for(executor.wait("one"), WITHIN)
        assert (result.reason, result.started_at, result.stdout) == ("start_failed", None, b""), result
