"""Section 9: several processes on one state folder."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from ...errors import ExecutionAlreadyStarted, ExecutorError
from ...types import ExecutionRequest
from ..bench import Bench
from ..elsewhere import Here
from ..line import line
from ..steps import Exit, Forever, Ignore, Say, Trap

_FAR = {"survives_caller"}


async def _hold(here: Here, request: ExecutionRequest, text: str) -> None:
    await here.executor.start(request)
    if text:
        await here.heard(request.execution_id, text)
    here.say("running")
    await here.woken()


async def _ask(here: Here, method: str, *arguments: Any) -> Any:
    return await getattr(here.executor, method)(*arguments)


async def _begin(here: Here, request: ExecutionRequest) -> str:
    here.say("ready")
    await here.woken()
    try:
        await here.executor.start(request)
    except ExecutorError as error:
        return type(error).__name__
    return "won"


async def _prepare(here: Here, request: ExecutionRequest) -> str:
    starting = asyncio.ensure_future(here.executor.start(request))
    async for event in here.executor.events(after=0):
        if event.execution_id == request.execution_id:
            break
    here.say("pending")
    try:
        await starting
    except ExecutorError as error:
        return type(error).__name__
    return "started"


@line("9")
async def test_what_another_process_runs_is_listed_here(bench: Bench) -> None:
    request = bench.request(Say("ready"), Forever(), labels={"from": "afar"})
    async with bench.elsewhere(_hold, request, "ready") as other:
        assert await other.heard() == "running"
        info = await bench.executor.inspect(request.execution_id)
        assert (info.status, info.request.labels) == ("running", {"from": "afar"})
        assert await bench.output(request.execution_id) == b"ready\n"
        with pytest.raises(ExecutionAlreadyStarted):
            await bench.executor.start(request)


@line("5")
async def test_of_starts_in_two_processes_exactly_one_wins(bench: Bench) -> None:
    request = bench.request(Say("once"))
    async with bench.elsewhere(_begin, request) as one, bench.elsewhere(_begin, request) as two:
        assert [await one.heard(), await two.heard()] == ["ready", "ready"]
        await one.wake()
        await two.wake()
        outcomes = Counter([await one.heard(), await two.heard()])
        assert outcomes.pop("won") == 1, outcomes
        assert set(outcomes) <= {"ExecutionAlreadyStarted", "ExecutionAlreadyFinished"}


@line("9")
async def test_a_result_is_the_same_in_another_process(bench: Bench) -> None:
    result = await bench.run(Say("here"), Exit(5))
    async with bench.elsewhere(_ask, "wait", result.execution_id) as other:
        assert await other.heard() == result


@line("4")
async def test_errors_come_over_from_another_process_whole(bench: Bench) -> None:
    async with bench.elsewhere(_ask, "wait", "nobody") as other:
        with pytest.raises(ExecutorError) as caught:
            await other.heard()
    assert caught.value.execution_id == "nobody"
    assert caught.value.mend


@line("9", needs=_FAR)
async def test_a_wait_here_gets_the_end_of_what_runs_there(bench: Bench) -> None:
    request = bench.request(Trap("USR1", 8), Say("ready"), Forever())
    async with bench.elsewhere(_hold, request, "ready") as other:
        await other.heard()
        waiting = asyncio.ensure_future(bench.executor.wait(request.execution_id))
        await asyncio.sleep(0)
        await bench.executor.send_signal(request.execution_id, "USR1")
        result = await waiting
        assert (result.exit_code, result.stdout) == (8, b"ready\n")


@line("5", needs=_FAR)
async def test_a_waiter_outlives_the_owner(bench: Bench) -> None:
    request = bench.request(Trap("USR1", 8), Say("ready"), Forever())
    async with bench.elsewhere(_hold, request, "ready") as other:
        await other.heard()
        waiting = asyncio.ensure_future(bench.executor.wait(request.execution_id))
        following = asyncio.ensure_future(bench.output(request.execution_id, follow=True))
        await asyncio.sleep(0)
        await other.kill()
    assert await bench.executor.get_status(request.execution_id) == "running"
    await bench.executor.send_signal(request.execution_id, "USR1")
    assert (await waiting).exit_code == 8
    assert await following == b"ready\n"


@line("9", needs=_FAR)
@pytest.mark.parametrize("state", ["running", "stubborn", "stopping"])
async def test_cancel_reaches_what_runs_in_another_process(bench: Bench, state: str) -> None:
    steps = () if state == "running" else (Ignore("TERM"),)
    request = bench.request(*steps, Say("ready"), Forever())
    async with bench.elsewhere(_hold, request, "ready") as other:
        await other.heard()
        first = (
            asyncio.ensure_future(bench.executor.cancel(request.execution_id, grace=500))
            if state == "stopping"
            else None
        )
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await bench.executor.cancel(request.execution_id, grace=0.2)
            if first is not None:
                await first
        result = await bench.executor.wait(request.execution_id)
        assert (result.status, result.reason, result.stdout) == ("cancelled", "cancelled", b"ready\n")


@line("9", needs={"slow_preparation"})
async def test_cancel_reaches_a_start_in_another_process(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    async with bench.elsewhere(_prepare, request) as other:
        assert await other.heard() == "pending"
        await bench.executor.cancel(request.execution_id)
        assert await other.heard() == "ExecutionCancelled"
    assert await bench.executor.get_status(request.execution_id) == "cancelled"


@line("9", needs={"slow_preparation"})
async def test_a_start_of_another_process_is_no_orphan(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    async with bench.elsewhere(_prepare, request) as other:
        assert await other.heard() == "pending"
        await bench.executor.recover()
        assert await bench.executor.get_status(request.execution_id) == "pending"


@line("5", needs={"slow_preparation"})
async def test_a_start_whose_caller_is_killed_is_undone(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    async with bench.elsewhere(_prepare, request) as other:
        assert await other.heard() == "pending"
        waiting = asyncio.ensure_future(bench.executor.wait(request.execution_id))
        await asyncio.sleep(0)
        await other.kill()
    result = await waiting
    assert (result.status, result.reason, result.exit_code) == ("failed", "start_failed", None), result


@line("2")
async def test_events_are_the_same_in_each_process(bench: Bench) -> None:
    events = []
    await bench.run(Exit(1))
    async for event in bench.executor.events(after=0):
        events.append(event)
        if len(events) == 3:
            break
    async with bench.elsewhere(_collect, 3) as other:
        assert await other.heard() == events


@line("9")
async def test_an_event_of_another_process_is_heard_here(bench: Bench) -> None:
    request = bench.request(Exit(0))
    coming = bench.executor.events(after=0)
    async with bench.elsewhere(_hold, request, ""):
        async for event in coming:
            assert event.execution_id == request.execution_id
            if event.status == "success":
                return


async def _collect(here: Here, count: int) -> list[Any]:
    found = []
    async for event in here.executor.events(after=0):
        found.append(event)
        if len(found) == count:
            break
    return found
