"""Section 5: one id, one execution."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ...errors import (
    ExecutionAlreadyFinished,
    ExecutionAlreadyStarted,
    ExecutionNotFinished,
    ExecutionNotFound,
    InvalidRequest,
)
from ...types import LogStreamRequest
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever, Say


@line("5")
async def test_a_second_start_finds_the_id_taken(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    with pytest.raises(ExecutionAlreadyStarted) as caught:
        await bench.executor.start(bench.request(execution_id=execution_id))
    assert caught.value.execution_id == execution_id
    await bench.executor.cancel(execution_id, grace=0)
    with pytest.raises(ExecutionAlreadyFinished) as ended:
        await bench.executor.run(bench.request(execution_id=execution_id))
    assert ended.value.status == "cancelled"


@line("5")
async def test_of_many_starts_at_once_exactly_one_wins(bench: Bench) -> None:
    request = bench.request(Say("once"), Forever())
    starts = [bench.executor.start(request) for _ in range(8)]
    outcomes = await asyncio.gather(*starts, return_exceptions=True)
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds == {"NoneType": 1, "ExecutionAlreadyStarted": 7}, kinds
    await bench.heard(request.execution_id, "once")
    assert await bench.output(request.execution_id) == b"once\n"


@line("5")
async def test_an_id_is_free_again_after_remove(bench: Bench) -> None:
    first = await bench.run(Say("first"), Exit(1))
    await bench.executor.remove(first.execution_id)
    with pytest.raises(ExecutionNotFound):
        await bench.executor.wait(first.execution_id)
    second = await bench.run(Say("second"), execution_id=first.execution_id)
    assert (second.exit_code, second.stdout) == (0, b"second\n"), "a reused id met its former self"
    assert await bench.output(first.execution_id) == b"second\n"


@line("5")
async def test_remove_refuses_what_is_not_finished(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    with pytest.raises(ExecutionNotFinished):
        await bench.executor.remove(execution_id)
    assert await bench.executor.get_status(execution_id) == "running"


@line("5")
async def test_remove_with_force_cancels_first_and_its_waiter_hears(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bench.executor.wait(execution_id))
        await asyncio.sleep(0)
        await bench.executor.remove(execution_id, force=True)
    assert (waiting.result().status, waiting.result().reason) == ("cancelled", "cancelled")
    assert await bench.ids() == []


@line("1")
@pytest.mark.parametrize(
    "method",
    ["wait", "cancel", "get_status", "inspect", "remove", "pause", "resume", "send_signal", "log", "wait_for_status"],
)
async def test_what_is_not_there_is_not_found(bench: Bench, method: str) -> None:
    executor = bench.executor
    with pytest.raises(ExecutionNotFound) as caught:
        if method == "send_signal":
            await executor.send_signal("nobody", 15)
        elif method == "log":
            await executor.get_log_stream(LogStreamRequest(execution_id="nobody"))
        elif method == "wait_for_status":
            await executor.wait_for_status("nobody", "running")
        else:
            await getattr(executor, method)("nobody")
    assert caught.value.execution_id == "nobody"
    assert caught.value.mend


@line("5")
@pytest.mark.parametrize(
    "execution_id", ["", "a/b", "..", ".", "-a", "_a", "a\0b", "a b", "a\n", "é", "x" * 129, "x" * 1000]
)
async def test_an_id_that_is_none_is_refused_before_anything_is_made(bench: Bench, execution_id: str) -> None:
    for call in (
        bench.executor.start(bench.request(execution_id=execution_id)),
        bench.executor.wait(execution_id),
        bench.executor.cancel(execution_id),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert caught.value.path == "$.execution_id"
    assert await bench.ids() == []


@line("5")
async def test_the_longest_id_runs(bench: Bench) -> None:
    result = await bench.run(Say("long"), execution_id="x" * 128)
    assert result.stdout == b"long\n"
