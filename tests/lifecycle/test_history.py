"""History is not in the way: what is asked of the journal all day goes through indexes; retention goes by pages."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dms_executor import (
    ByteSize,
    ExecutionRequest,
    Executor,
    LogStreamRequest,
    Resources,
    Settings,
    SpecConfig,
    maintenance,
)
from dms_executor.errors import ExecutionNotFound, ResultExpired
from dms_executor.journal import schema

ALIVE = ["pending", "running", "paused"]


def request(name: str, **fields: Any) -> ExecutionRequest:
    spec = SpecConfig(type="memory", params={"script": ["echo hi"]})
    return ExecutionRequest(job_id=f"job-{name}", execution_id=name, engine_spec=spec, **fields)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that the journal's connections execute."""
    statements: list[str] = []
    connect = sqlite3.connect

    def tracing(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", tracing)
    return statements


def _through_all_rows(folder: Path, statements: list[str]) -> list[str]:
    """The statements for which SQLite would look at every execution."""
    database = sqlite3.connect(folder / schema.DATABASE)
    found = []
    for statement in statements:
        if statement.split()[0] not in ("SELECT", "UPDATE", "DELETE", "INSERT"):
            continue
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
        if any(step.startswith("SCAN executions") and "INDEX" not in step for step in plan):
            found.append(statement)
    database.close()
    return found


async def test_nothing_that_is_done_all_day_goes_through_history(state_dir: Path, asked: list[str]) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.run(request("one"))
    async with Executor.open(state_dir) as executor:
        await executor.start(request("two", resources=Resources(memory=ByteSize("1MiB"))))
        await executor.wait("two")
        await executor.list(statuses=ALIVE)
        await executor.list(statuses=ALIVE, newest_first=True)
        await executor.list(job_id="job-two")
        await executor.get_status("one")
        await executor.inspect("one")
        async with await executor.get_log_stream(LogStreamRequest(execution_id="one")) as stream:
            await stream.read()
        await executor.remove("one")
    assert any("phase != 'done'" in statement for statement in asked)
    assert _through_all_rows(state_dir, asked) == []


async def test_a_page_reads_no_more_rows_than_it_gives(state_dir: Path, asked: list[str]) -> None:
    async with Executor.open(state_dir) as executor:
        for number in range(3):
            await executor.run(request(f"e{number}"))
        asked.clear()
        assert len(await executor.list(limit=2)) == 2
    (statement,) = [text for text in asked if "ORDER BY seq" in text]
    assert statement.endswith("LIMIT 2")


async def test_cleanup_goes_by_pages_and_leaves_none_out(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_PAGE", 2)
    async with Executor.open(state_dir) as executor:
        for number in range(7):
            await executor.run(request(f"e{number}", persist_logs=0.0 if number == 3 else 1e-6))
        report = await executor.cleanup()
        assert (report.executions, len(await executor.list())) == (0, 7)
        assert report.bytes_freed > 0
        for name in ("e0", "e3", "e6"):
            with pytest.raises(ResultExpired):
                await executor.wait(name)
    async with Executor.open(state_dir, settings=Settings(record_retention=0.0)) as executor:
        report = await executor.cleanup()
        assert (report.executions, await executor.list()) == (7, [])
        assert [event async for event in executor.events(after=0, follow=False)] == []
        with pytest.raises(ExecutionNotFound):
            await executor.wait("e6")
    assert list((state_dir / "executions").iterdir()) == []


async def test_a_record_is_kept_as_long_as_its_log(state_dir: Path) -> None:
    async with Executor.open(state_dir, settings=Settings(record_retention=0.0)) as executor:
        await executor.run(request("kept", persist_logs=3600.0))
        await executor.run(request("gone"))
        assert (await executor.cleanup()).executions == 1
        assert (await executor.wait("kept")).stdout == b"hi\n"
