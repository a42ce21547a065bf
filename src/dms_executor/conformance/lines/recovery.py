"""Section 5: the calling program is killed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from ...types import ExecutionRequest
from ..bench import Bench
from ..elsewhere import Here
from ..line import line
from ..steps import Exit, Flood, Forever, Ignore, Say, Trap

_FAR = {"survives_caller"}
_BEFORE_THE_GO = ["claimed", "request_written", "prepared", "created", "created_committed"]
_AFTER_THE_GO = ["started", "running_committed", "watched", "finished_committed", "destroyed"]
_STOPPING = ["intent_committed", "stop_in_hand"]


async def _run(here: Here, request: ExecutionRequest, text: str = "") -> None:
    await here.executor.start(request)
    if text:
        await here.heard(request.execution_id, text)
        here.say("ready")
    await here.executor.wait(request.execution_id)
    await here.woken()


async def _cancelling(here: Here, request: ExecutionRequest, grace: float) -> None:
    await here.executor.start(request)
    await here.heard(request.execution_id, "ready")
    here.say("ready")
    await here.executor.cancel(request.execution_id, grace=grace)


async def _removing(here: Here, request: ExecutionRequest) -> None:
    await here.executor.run(request)
    await here.executor.remove(request.execution_id)


@line("5", needs=_FAR)
async def test_a_job_runs_on_when_its_caller_is_killed(bench: Bench) -> None:
    await bench.close()
    request = bench.request(Trap("USR1", 3), Flood(5000), Say("ready"), Forever())
    async with bench.elsewhere(_run, request, "ready") as other:
        await other.heard()
        await other.kill()
    await bench.open()
    assert await bench.executor.get_status(request.execution_id) == "running"
    await bench.executor.send_signal(request.execution_id, "USR1")
    assert (await bench.executor.wait(request.execution_id)).exit_code == 3
    assert len(await bench.output(request.execution_id)) == 5000 * 100 + 6


@line("5", needs=_FAR)
async def test_a_job_that_ended_with_no_caller_has_its_true_result(bench: Bench) -> None:
    await bench.close()
    request = bench.request(Say("ready"), Forever(), timeout=0.7)
    async with bench.elsewhere(_run, request, "ready") as other:
        await other.heard()
        await other.kill()
    # With nobody there to hear of it, the deadline's passing has no sign: the clock is the only witness.
    await asyncio.sleep(1)
    await bench.open()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 143), result
    assert result.stdout == b"ready\n"


@line("5", needs=_FAR)
@pytest.mark.parametrize("point", _BEFORE_THE_GO)
async def test_a_caller_killed_before_the_go_leaves_a_failed_start(bench: Bench, point: str) -> None:
    await bench.close()
    request = bench.request(Say("never"))
    async with bench.elsewhere(_run, request, fault=point) as other:
        assert await other.ended() == -9
    await bench.open()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "start_failed", None), result
    assert result.stdout == b"", "the job ran though nobody let it go"


@line("5", needs=_FAR)
@pytest.mark.parametrize("point", _AFTER_THE_GO)
async def test_a_caller_killed_after_the_go_loses_nothing(bench: Bench, point: str) -> None:
    await bench.close()
    request = bench.request(Say("out"), Exit(6))
    async with bench.elsewhere(_run, request, fault=point) as other:
        assert await other.ended() == -9
    await bench.open()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "exited", 6), result
    assert result.stdout == b"out\n"


@line("5", needs={"survives_caller", "volumes"})
@pytest.mark.parametrize("point", ["ended_committed", "collected"])
async def test_a_caller_killed_while_it_collects_loses_no_result(bench: Bench, point: str) -> None:
    await bench.close()
    results = bench.folder / "results"
    request = bench.request(Say("out"), Exit(6), results_dir=str(results))
    async with bench.elsewhere(_run, request, fault=point) as other:
        assert await other.ended() == -9
    await bench.open()
    assert (await bench.executor.wait(request.execution_id)).exit_code == 6
    assert ((results / "stdout").read_bytes(), (results / "exit_code").read_text().strip()) == (b"out\n", "6")


@line("5", needs=_FAR)
@pytest.mark.parametrize("point", _STOPPING)
async def test_a_cancel_is_carried_out_though_its_caller_is_killed(bench: Bench, point: str) -> None:
    await bench.close()
    request = bench.request(Ignore("TERM"), Say("ready"), Forever())
    async with bench.elsewhere(_cancelling, request, 0.3, fault=point) as other:
        await other.heard()
        assert await other.ended() == -9
    await bench.open()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("cancelled", "cancelled", 137), result


@line("5", needs=_FAR)
@pytest.mark.parametrize("point", ["removing_committed", "folder_removed"])
async def test_a_remove_is_carried_out_though_its_caller_is_killed(bench: Bench, point: str) -> None:
    await bench.close()
    request = bench.request(Say("gone"))
    async with bench.elsewhere(_removing, request, fault=point) as other:
        assert await other.ended() == -9
    await bench.open()
    await bench.executor.cleanup()
    assert await bench.ids() == []
    assert (await bench.run(Say("new"), execution_id=request.execution_id)).stdout == b"new\n"


@line("5", lacks=_FAR)
async def test_a_job_that_dies_with_its_caller_is_lost_and_says_so(bench: Bench) -> None:
    await bench.close()
    request = bench.request(Say("ready"), Forever())
    async with bench.elsewhere(_run, request, "ready") as other:
        await other.heard()
        await other.kill()
    await bench.open()
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "engine_lost", None), result
    assert result.error_msg
    assert result.stdout == b"ready\n", "the output so far is lost"


@line("5", lacks=_FAR)
async def test_a_waiter_hears_that_the_job_died_with_its_caller(bench: Bench) -> None:
    request = bench.request(Say("ready"), Forever())
    async with bench.elsewhere(_run, request, "ready") as other:
        await other.heard()
        waiting = asyncio.ensure_future(bench.executor.wait(request.execution_id))
        await asyncio.sleep(0)
        await other.kill()
    assert (await waiting).reason == "engine_lost"


@line("5", needs={"supervisor"})
async def test_a_job_whose_supervisor_is_killed_is_lost_at_once(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    waiting = asyncio.ensure_future(bench.executor.wait(execution_id))
    await asyncio.sleep(0)
    os.kill(bench.subject.supervisor(await bench.executor.inspect(execution_id)), signal.SIGKILL)
    async with asyncio.timeout(10):
        result = await waiting
    assert (result.status, result.reason) == ("failed", "engine_lost"), result
    assert result.exit_code is None
    assert result.error_msg
    assert result.stdout == b"ready\n", "the output so far is lost"
    await bench.clear()


@line("5", needs={"supervisor", "survives_caller"})
async def test_a_supervisor_killed_with_no_caller_is_lost_and_no_success(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    pid = bench.subject.supervisor(await bench.executor.inspect(execution_id))
    await bench.close()
    os.kill(pid, signal.SIGKILL)
    await bench.open()
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "engine_lost", None), result


@line("2")
async def test_recover_of_what_is_in_order_changes_nothing(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 2), Say("ready"), Forever(), until="ready")
    report = await bench.executor.recover()
    assert (report.lost, report.undone, report.leftovers) == ([], [], [])
    await bench.executor.send_signal(execution_id, "USR1")
    assert (await bench.executor.wait(execution_id)).exit_code == 2
