"""A stop that its engine could not be asked for is asked for again, whoever wanted it, until the job is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import datetime
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.engine import Execution, Handle
from dms_executor.errors import EngineUnavailable, EngineUnreachable, ExecutorError

from .stand_in import StandIn, request

WITHIN = 60.0
_SILENT = EngineUnreachable("no answer", mend="Look at it")


async def gone(executor: Executor, execution_id: str = "one") -> None:
    """Once it was cancelled."""
    result = await asyncio.wait_for(executor.wait(execution_id), WITHIN)
    assert (result.status, result.reason, result.signal) == ("cancelled", "cancelled", 15), result


def silent(stand_in: type[StandIn], times: int, error: ExecutorError = _SILENT) -> None:
    stand_in.failing["stop"] = error
    stand_in.times["stop"] = times


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", [_SILENT, EngineUnavailable("not now")], ids=["unreachable", "unavailable"])
async def test_a_cancel_that_failed_is_repeated(
    state_dir: Path, stand_in: type[StandIn], times: int, error: ExecutorError
) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        silent(stand_in, times, error)
        with pytest.raises(EngineUnreachable, match=f"not stopped yet: {error.message}") as caught:
            await executor.cancel("one")
        assert "tried again" in caught.value.mend
        await gone(executor)
        assert stand_in.called.count("stop") == times + 1


async def test_two_cancels_that_fail_are_repeated_as_one(state_dir: Path, stand_in: type[StandIn]) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "trap TERM -1", "forever"))
        silent(stand_in, 1 << 30)
        for grace in (3600.0, 0.0):
            with pytest.raises(EngineUnreachable):
                await executor.cancel("one", grace=grace)
        assert len([task for task in asyncio.all_tasks() if task.get_name().startswith("stop ")]) == 1
        stand_in.failing.clear()
        result = await asyncio.wait_for(executor.wait("one"), WITHIN)
        assert (result.reason, result.signal) == ("cancelled", 9), "the shorter grace counts"


async def test_a_cancel_that_fails_while_another_is_repeated_is_not_forgotten(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    graces: list[float] = []
    is_asked, goes_on, stop = asyncio.Event(), asyncio.Event(), stand_in.stop

    async def scripted(self: StandIn, x: Execution, h: Handle, signum: int, grace: float) -> None:
        graces.append(grace)
        if len(graces) in (1, 3):
            raise _SILENT
        if len(graces) == 2:
            is_asked.set()
            await goes_on.wait()
        await stop(self, x, h, signum, grace)

    monkeypatch.setattr(stand_in, "stop", scripted)
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "trap TERM -1", "forever"))
        with pytest.raises(EngineUnreachable):
            await executor.cancel("one", grace=3600)
        await asyncio.wait_for(is_asked.wait(), WITHIN)
        with pytest.raises(EngineUnreachable):
            await executor.cancel("one", grace=0)
        goes_on.set()
        assert (await asyncio.wait_for(executor.wait("one"), WITHIN)).signal == 9
        assert graces == [3600, 3600, 0, 0]


async def test_a_caller_that_was_cancelled_ends_its_job_all_the_same(state_dir: Path, stand_in: type[StandIn]) -> None:
    async with Executor.open(state_dir) as executor:
        silent(stand_in, 2)
        running = asyncio.create_task(executor.run(request("one", "forever")))
        async for event in executor.events(after=0):
            if event.status == "running":
                break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, WITHIN)
        await gone(executor)


async def test_what_was_cancelled_before_it_ran_is_no_failed_start(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, let_go, start = asyncio.Event(), asyncio.Event(), stand_in.start

    async def slow(self: StandIn, x: Execution, h: Handle) -> datetime:
        is_asked.set()
        await let_go.wait()
        return await start(self, x, h)

    monkeypatch.setattr(stand_in, "start", slow)
    async with Executor.open(state_dir) as executor:
        silent(stand_in, 2)
        starting = asyncio.create_task(executor.start(request("one", "forever")))
        await asyncio.wait_for(is_asked.wait(), WITHIN)
        cancelling = asyncio.create_task(executor.cancel("one"))
        while executor._core.live and not any(live.intent for live in executor._core.live.values()):
            await asyncio.sleep(0.01)
        let_go.set()
        await asyncio.wait_for(asyncio.gather(starting, cancelling), WITHIN)
        await gone(executor)
        assert stand_in.called.count("stop") == 3


async def test_a_closed_executor_leaves_it_to_the_next(state_dir: Path, stand_in: type[StandIn]) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        silent(stand_in, 1 << 30)
        with pytest.raises(EngineUnreachable):
            await executor.cancel("one")
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("stop ")]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("stop ")]
    stand_in.failing.clear()
    async with Executor.open(state_dir) as executor:
        await gone(executor)


async def test_who_watches_a_job_takes_over_from_a_canceller_that_died(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        command = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(state_dir), "cancel", "one"]
        dying = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "DMS_EXECUTOR_FAULT": "intent_committed"}
        )
        assert await asyncio.wait_for(dying.wait(), WITHIN) == -signal.SIGKILL
        await executor.list()
        await gone(executor)
