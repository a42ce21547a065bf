"""Removal, retention and lists: whole, and never at the cost of who waits or reads."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from dms_executor import Executor, Settings
from dms_executor.errors import ExecutionNotFound
from dms_executor.journal import Journal

from .stand_in import StandIn, request


async def test_a_cancelled_removal_completes(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destroy = StandIn.destroy
    entered = asyncio.Event()

    async def slow(*arguments: object) -> None:
        entered.set()
        await asyncio.sleep(0.2)
        await destroy(*arguments)  # type: ignore[arg-type]

    async with Executor.open(state_dir) as executor:
        await executor.run(request("one"))
        await executor.wait_for_status("one", "success")
        await asyncio.sleep(0.05)
        monkeypatch.setattr(StandIn, "destroy", slow)
        removing = asyncio.create_task(executor.remove("one"))
        await entered.wait()
        removing.cancel()
        await asyncio.wait({removing})
        await asyncio.sleep(0.3)
        await executor.run(request("one"))


async def test_a_waiter_of_one_that_is_removed_at_its_end_gets_the_result(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Executor.open(state_dir) as executor:
        core = executor._core
        await executor.start(request("one", "sleep 0.1", "exit 3"))
        row = await core.row("one")
        # As a waiter of another process: it only sees what is recorded.
        await executor.wait("one")
        await executor.remove("one")
        kept = await core.journal.kept_result(row.token)
        assert kept is not None
        assert kept.exit_code == 3


async def test_a_page_does_not_begin_anew_where_its_place_was_removed(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        for name in ("a", "b", "c"):
            await executor.run(request(name))
        await executor.remove("b")
        with pytest.raises(ExecutionNotFound):
            await executor.list(after="b")
        assert [info.request.execution_id for info in await executor.list(after="a")] == ["c"]


async def test_a_log_that_is_kept_longer_than_records_keeps_its_record(state_dir: Path) -> None:
    async with Executor.open(state_dir, settings=Settings(record_retention=0.0)) as executor:
        await executor.run(request("short", "echo hi", persist_logs=0.0))
        await executor.run(request("long", "echo hi", persist_logs=3600.0))
        await executor.cleanup()
        assert [info.request.execution_id for info in await executor.list()] == ["long"]
        assert (await executor.wait("long")).stdout == b"hi\n"


async def test_cleanup_forgets_old_events_and_numbers_go_on(state_dir: Path) -> None:
    async with Executor.open(state_dir, settings=Settings(record_retention=0.0)) as executor:
        await executor.run(request("one"))
        await executor.cleanup()
    with sqlite3.connect(state_dir / "journal.db") as database:
        assert database.execute("SELECT count(*) FROM events").fetchone() == (0,)
    database.close()
    async with Executor.open(state_dir) as executor:
        await executor.run(request("two"))
        assert (await anext(executor.events(after=0))).sequence == 4


async def test_cleanup_cancels_all_that_runs_at_once(state_dir: Path) -> None:
    async with Executor.open(state_dir, settings=Settings(grace=0.5)) as executor:
        for number in range(8):
            await executor.start(request(f"e{number}", "trap TERM -1", "forever"))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(executor.cleanup(running=True), 3)
        assert {info.status for info in await executor.list()} == {"cancelled"}


async def test_each_waiter_gets_a_result_that_is_kept_for_one_delivery(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = Journal.finished

    async def elsewhere(self: Journal, token: str, decide: object) -> None:
        # Another process records the end, and delivers it, a moment before us.
        result = await finished(self, token, decide)  # type: ignore[arg-type]
        if result is not None:
            await self.delivered(token, msgspec.structs.replace(result, stdout=b"hi\n"))

    monkeypatch.setattr(Journal, "finished", elsewhere)
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "echo hi", "sleep 0.1", persist_logs=0.0))
        assert (await asyncio.wait_for(executor.wait("one"), 5)).stdout == b"hi\n"
