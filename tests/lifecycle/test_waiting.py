"""Who waits: each on its own, to the end, with the result that it waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor import ExecutionStatus, Executor
from dms_executor.engine import Handle
from dms_executor.errors import (
    ExecutionAlreadyFinished,
    ExecutionNotFound,
    ExecutorError,
    InvalidRequest,
    StateUnwritable,
)
from dms_executor.journal import Journal

from .stand_in import StandIn, request


async def test_a_cancelled_waiter_leaves_the_others_waiting(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "sleep 0.3"))
        first = asyncio.create_task(executor.wait_for_status("one", "success"))
        second = asyncio.create_task(executor.wait_for_status("one", "success"))
        await asyncio.sleep(0.1)
        first.cancel()
        assert await asyncio.wait_for(second, 5) is ExecutionStatus.SUCCESS


def read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a row reads it when all is over: what a busy machine does."""
    by_token = Journal.by_token

    async def late(self: Journal, token: str) -> object:
        await asyncio.sleep(0.3)
        return await by_token(self, token)

    monkeypatch.setattr(Journal, "by_token", late)


async def test_a_status_that_is_passed_at_once_was_reached(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Executor.open(state_dir) as executor:
        starting = asyncio.create_task(executor.run(request("one", prepare=0.1)))
        while not await executor.list():
            await asyncio.sleep(0.01)
        read_late(monkeypatch)
        assert await asyncio.wait_for(executor.wait_for_status("one", "running"), 5) is ExecutionStatus.RUNNING
        await starting
        with pytest.raises(ExecutionAlreadyFinished):
            await executor.wait_for_status("one", "running")


async def test_an_unknown_status_is_refused(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.run(request("one"))
        with pytest.raises(InvalidRequest, match="Statuses are: pending"):
            await executor.wait_for_status("one", "finished")
        with pytest.raises(InvalidRequest, match="Statuses are: pending"):
            await executor.list(statuses=["done"])


async def test_waiting_for_a_status_of_one_that_vanishes_ends(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        read_late(monkeypatch)
        waiting = asyncio.create_task(executor.wait_for_status("one", "success"))
        await asyncio.sleep(0.05)
        live = next(iter(executor._core.live.values()))
        await live.engine.stop(live.x, Handle(), 9, 0)
        await live.done.wait()
        await executor.remove("one")
        with pytest.raises(ExecutionAlreadyFinished, match="failed"):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(ExecutionNotFound):
            await executor.wait_for_status("one", "success")


async def test_an_end_that_could_not_be_recorded_is_recorded_for_the_next_waiter(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = Journal.finished

    async def full(*_arguments: object) -> None:
        raise StateUnwritable("no space left")

    async with Executor.open(state_dir) as executor:
        monkeypatch.setattr(Journal, "finished", full)
        with pytest.raises(StateUnwritable):
            await executor.run(request("one", "exit 3", outputs=True))
        waiting = asyncio.create_task(executor.wait("one"))
        await asyncio.sleep(0.05)
        monkeypatch.setattr(Journal, "finished", finished)
        assert (await asyncio.wait_for(waiting, 10)).exit_code == 3


async def test_a_start_that_cannot_be_undone_tells_why_it_failed(state_dir: Path, stand_in: type[StandIn]) -> None:
    stand_in.failing["start"] = ExecutorError("the start failed")
    stand_in.failing["destroy"] = ExecutorError("nor can it be undone")
    async with Executor.open(state_dir) as executor:
        with pytest.raises(ExecutorError, match="the start failed"):
            await asyncio.wait_for(executor.start(request("one")), 5)
        assert (await asyncio.wait_for(executor.wait("one"), 5)).reason == "start_failed"
        stand_in.failing.clear()
        stand_in.called.clear()
        await executor.recover()
        assert "destroy" in stand_in.called


async def test_a_cancelled_start_of_an_id_that_is_taken_ends(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Journal.claim
    entered = asyncio.Event()

    async def slow(*arguments: object) -> None:
        entered.set()
        await asyncio.sleep(0.2)
        await claim(*arguments)  # type: ignore[arg-type]

    async with Executor.open(state_dir) as executor:
        await executor.run(request("one"))
        monkeypatch.setattr(Journal, "claim", slow)
        starting = asyncio.create_task(executor.start(request("one")))
        await entered.wait()
        starting.cancel()
        done, _ = await asyncio.wait({starting}, timeout=5)
        assert done
        assert starting.cancelled()


async def test_a_slow_preparation_holds_up_no_other_start(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        slow = [asyncio.create_task(executor.start(request(f"slow-{n}", prepare=60))) for n in range(300)]
        await asyncio.sleep(0.3)
        await asyncio.wait_for(executor.run(request("quick", "exit 0")), 10)
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
