"""Sections 1 and 5: `wait`, `run` and `wait_for_status`, and what their cancellation means."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutionAlreadyFinished, ExecutionCancelled
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever, Ignore, Say, Trap


@line("1")
async def test_every_one_of_many_waiters_gets_the_result(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 7), Say("ready"), Forever(), until="ready")
    waiting = [asyncio.ensure_future(bench.executor.wait(execution_id)) for _ in range(25)]
    await asyncio.sleep(0)
    await bench.executor.send_signal(execution_id, "USR1")
    results = await asyncio.gather(*waiting)
    assert {result.exit_code for result in results} == {7}
    assert all(result == results[0] for result in results)


@line("5")
async def test_a_cancelled_wait_leaves_the_job_alone(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 0), Say("ready"), Forever(), until="ready")
    waiting = asyncio.ensure_future(bench.executor.wait(execution_id))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.send_signal(execution_id, "USR1")
    assert (await bench.executor.wait(execution_id)).status == "success"


@line("5")
async def test_a_cancelled_run_cancels_the_execution(bench: Bench) -> None:
    request = bench.request(Say("ready"), Forever())
    running = asyncio.ensure_future(bench.executor.run(request))
    await _seen(bench, request.execution_id)
    await bench.heard(request.execution_id, "ready")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.stdout) == ("cancelled", "cancelled", b"ready\n")


@line("5")
async def test_a_second_cancellation_of_run_returns_at_once(bench: Bench) -> None:
    request = bench.request(Ignore("TERM"), Say("ready"), Forever())
    running = asyncio.ensure_future(bench.executor.run(request))
    await _seen(bench, request.execution_id)
    await bench.heard(request.execution_id, "ready")
    running.cancel()
    await _intent(bench, request.execution_id)
    assert not running.done(), "run returned before its job was gone"
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([running])
    await bench.executor.cancel(request.execution_id, grace=0)
    assert (await bench.executor.wait(request.execution_id)).status == "cancelled"


@line("5", needs={"slow_preparation"})
async def test_a_cancelled_start_cancels_the_preparation(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    starting = asyncio.ensure_future(bench.executor.start(request))
    await _seen(bench, request.execution_id)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert await bench.executor.get_status(request.execution_id) == "cancelled"


@line("5", needs={"slow_preparation"})
async def test_a_cancel_while_pending_ends_start_and_run(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    running = asyncio.ensure_future(bench.executor.run(request))
    await _seen(bench, request.execution_id)
    assert await bench.executor.get_status(request.execution_id) == "pending"
    await bench.executor.cancel(request.execution_id)
    with pytest.raises(ExecutionCancelled) as caught:
        await running
    assert caught.value.execution_id == request.execution_id
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("cancelled", "cancelled", None)


@line("2")
async def test_wait_for_status_gives_the_first_that_is_reached(bench: Bench) -> None:
    request = bench.request(Trap("USR1", 0), Say("ready"), Forever())
    await bench.executor.start(request)
    execution_id = request.execution_id
    assert await bench.executor.wait_for_status(execution_id, "running", "success") == "running"
    await bench.heard(execution_id, "ready")
    ending = asyncio.ensure_future(bench.executor.wait_for_status(execution_id, "success", "failed"))
    await bench.executor.send_signal(execution_id, "USR1")
    assert await ending == "success"


@line("12")
async def test_wait_for_a_status_that_never_comes_says_so(bench: Bench) -> None:
    result = await bench.run(Exit(2))
    with pytest.raises(ExecutionAlreadyFinished) as caught:
        await bench.executor.wait_for_status(result.execution_id, "success")
    assert caught.value.status == "failed"


async def _seen(bench: Bench, execution_id: str) -> None:
    """Until the execution is in the record."""
    async for event in bench.executor.events(after=0):
        if event.execution_id == execution_id:
            return


async def _intent(bench: Bench, execution_id: str) -> None:
    """Until a cancel was taken in hand: the job is asked twice for its status, which orders us behind the commit."""
    for _ in range(20):
        await bench.executor.get_status(execution_id)
