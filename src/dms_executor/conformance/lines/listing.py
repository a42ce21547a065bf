"""Section 2: what is listed, what is told as it happens."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutionNotFound
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever


@line("12")
async def test_executions_are_listed_in_order_of_creation_by_pages(bench: Bench) -> None:
    names = ["z", "a", "m", "b", "y"]
    for name in names:
        await bench.run(execution_id=name)
    assert await bench.ids() == names
    pages = []
    after = None
    while page := await bench.executor.list(limit=2, after=after):
        pages.append([info.request.execution_id for info in page])
        after = pages[-1][-1]
    assert pages == [["z", "a"], ["m", "b"], ["y"]]
    newest = [info.request.execution_id for info in await bench.executor.list(limit=2, newest_first=True)]
    assert newest == ["y", "b"]
    rest = await bench.executor.list(newest_first=True, after=newest[-1])
    assert [info.request.execution_id for info in rest] == ["m", "a", "z"]


@line("2")
async def test_a_list_is_filtered_by_status_job_and_labels(bench: Bench) -> None:
    await bench.run(Exit(1), execution_id="bad", labels={"team": "a", "kind": "x"})
    await bench.run(execution_id="good", job_id="other", labels={"team": "a"})
    running = await bench.start(Forever(), execution_id="on")

    async def listed(**filters: object) -> list[str]:
        return [info.request.execution_id for info in await bench.executor.list(**filters)]  # type: ignore[arg-type]

    assert await listed(statuses=["failed"]) == ["bad"]
    assert await listed(statuses=["running", "success"]) == ["good", running]
    assert await listed(statuses=[]) == []
    assert await listed(job_id="other") == ["good"]
    assert await listed(labels={"team": "a"}) == ["bad", "good"]
    assert await listed(labels={"team": "a", "kind": "x"}) == ["bad"]


@line("2")
async def test_inspect_tells_request_engine_and_times(bench: Bench) -> None:
    result = await bench.run(Exit(3), labels={"a": "b"}, timeout=100)
    info = await bench.executor.inspect(result.execution_id)
    assert (info.engine, info.status, info.reason, info.exit_code) == (bench.subject.engine, "failed", "exited", 3)
    assert (info.request.labels, info.request.timeout) == ({"a": "b"}, 100)
    assert info.stale is False


@line("12")
async def test_events_are_numbered_and_replayable(bench: Bench) -> None:
    first = await bench.run(Exit(1))
    second = await bench.run()
    seen = []
    async for event in bench.executor.events(after=0):
        seen.append(event)
        if len(seen) == 6:
            break
    assert [event.execution_id for event in seen] == [first.execution_id] * 3 + [second.execution_id] * 3
    assert [event.status for event in seen] == ["pending", "running", "failed", "pending", "running", "success"]
    numbers = [event.sequence for event in seen]
    assert numbers == sorted(set(numbers))
    again = []
    async for event in bench.executor.events(after=numbers[3]):
        again.append(event)
        if len(again) == 2:
            break
    assert again == seen[4:]


@line("12")
async def test_events_without_a_place_begin_now(bench: Bench) -> None:
    await bench.run()
    events = bench.executor.events()
    coming = asyncio.ensure_future(anext(events))
    await bench.executor.get_status((await bench.ids())[0])
    await asyncio.sleep(0.05)
    request = bench.request()
    await bench.executor.run(request)
    assert (await coming).execution_id == request.execution_id
    await events.aclose()  # type: ignore[attr-defined]


@line("2")
async def test_remove_takes_record_log_and_result(bench: Bench) -> None:
    result = await bench.run()
    await bench.executor.remove(result.execution_id)
    assert await bench.ids() == []
    with pytest.raises(ExecutionNotFound):
        await bench.output(result.execution_id)
    with pytest.raises(ExecutionNotFound):
        await bench.executor.remove(result.execution_id)


@line("2")
async def test_progress_is_told_to_who_asks(bench: Bench) -> None:
    told: list[object] = []
    await bench.executor.run(bench.request(), progress=told.append)
    assert all(hasattr(step, "what") for step in told)
