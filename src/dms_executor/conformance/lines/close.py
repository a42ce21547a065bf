"""Section 5: what closing an executor does, and what it does not."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutorClosed, ExecutorError
from ..bench import Bench
from ..line import line
from ..steps import Forever, Say, Trap


@line("5")
async def test_running_jobs_outlive_a_close(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 4), Say("ready"), Forever(), until="ready")
    await bench.open()
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.send_signal(execution_id, "USR1")
    result = await bench.executor.wait(execution_id)
    assert (result.exit_code, result.stdout) == (4, b"ready\n")


@line("5")
async def test_waiters_and_followers_of_a_closed_executor_are_told(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    waiting = asyncio.ensure_future(bench.executor.wait(execution_id))
    status = asyncio.ensure_future(bench.executor.wait_for_status(execution_id, "success"))
    stream = await bench.follow(execution_id, tail=True)
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0.05)
    await bench.close()
    outcomes = await asyncio.gather(waiting, status, reading, return_exceptions=True)
    await stream.aclose()
    assert [type(outcome) for outcome in outcomes] == [ExecutorClosed] * 3, outcomes


@line("5", needs={"slow_preparation"})
async def test_pending_starts_are_cancelled_by_a_close(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    starting = asyncio.ensure_future(bench.executor.start(request))
    async for event in bench.executor.events(after=0):
        if event.execution_id == request.execution_id:
            break
    await bench.close()
    with pytest.raises(ExecutorError):
        await starting
    await bench.open()
    assert await bench.executor.get_status(request.execution_id) == "cancelled"


@line("5")
async def test_a_closed_executor_says_so(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    closed = bench.executor
    await bench.close()
    for call in (
        lambda: closed.wait(execution_id),
        lambda: closed.start(bench.request()),
        lambda: closed.list(),
        lambda: closed.cancel(execution_id),
        lambda: closed.probe(),
    ):
        with pytest.raises(ExecutorClosed):
            await call()
