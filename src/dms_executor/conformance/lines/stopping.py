"""Section 5: cancel and signals, and which cause and code the result shows."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutionAlreadyFinished, ExecutionNotRunning, InvalidRequest
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever, Ignore, Say, Trap


@line("5")
async def test_a_cancelled_job_keeps_its_output_and_shows_its_signal(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.killed) == ("cancelled", "cancelled", True), result
    assert (result.exit_code, result.signal, result.stdout) == (143, 15, b"ready\n")


@line("5")
async def test_a_job_that_handles_term_keeps_its_own_code(bench: Bench) -> None:
    execution_id = await bench.start(Trap("TERM", 5), Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason) == ("cancelled", "cancelled"), result
    assert (result.exit_code, result.signal) == (5, None)


@line("5")
async def test_a_job_that_ignores_term_is_killed_after_the_grace(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id, grace=0.3)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.exit_code, result.signal, result.killed) == ("cancelled", 137, 9, True), result


@line("5")
async def test_cancel_returns_only_when_the_job_is_gone(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id, grace=0.1)
    assert await bench.executor.get_status(execution_id) == "cancelled"


@line("2")
@pytest.mark.parametrize("signal", [10, "10", "USR1", "SIGUSR1", "usr1"])
async def test_cancel_by_another_signal(bench: Bench, signal: int | str) -> None:
    execution_id = await bench.start(Trap("USR1", 6), Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id, signal=signal)
    assert (await bench.executor.wait(execution_id)).exit_code == 6


@line("5")
async def test_a_second_cancel_joins_and_the_shorter_grace_counts(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.executor.cancel(execution_id, grace=1000))
        await asyncio.sleep(0)
        tasks.create_task(bench.executor.cancel(execution_id, grace=0.2))
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.exit_code) == ("cancelled", 137)


@line("5")
async def test_a_cancelled_cancel_is_carried_out(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    cancelling = asyncio.ensure_future(bench.executor.cancel(execution_id))
    await asyncio.sleep(0.01)
    cancelling.cancel()
    assert (await bench.executor.wait(execution_id)).status == "cancelled"


@line("1")
async def test_cancel_of_a_finished_one_changes_nothing(bench: Bench) -> None:
    first = await bench.run(Exit(3))
    with pytest.raises(ExecutionAlreadyFinished) as caught:
        await bench.executor.cancel(first.execution_id)
    assert (caught.value.status, caught.value.execution_id) == ("failed", first.execution_id)
    assert await bench.executor.wait(first.execution_id) == first


@line("2")
@pytest.mark.parametrize("wrong", ["NOPE", 0, 65, -1, ""])
async def test_a_signal_that_is_none_is_refused(bench: Bench, wrong: int | str) -> None:
    execution_id = await bench.start(Forever())
    for call in (
        bench.executor.send_signal(execution_id, wrong),
        bench.executor.cancel(execution_id, signal=wrong),
    ):
        with pytest.raises(InvalidRequest):
            await call
    assert await bench.executor.get_status(execution_id) == "running"


@line("2")
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
async def test_a_grace_that_is_none_is_refused(bench: Bench, wrong: float) -> None:
    execution_id = await bench.start(Forever())
    with pytest.raises(InvalidRequest):
        await bench.executor.cancel(execution_id, grace=wrong)
    assert await bench.executor.get_status(execution_id) == "running"


@line("12")
async def test_ended_by_send_signal_is_signaled_and_killed(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    await bench.executor.send_signal(execution_id, "SIGTERM")
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason) == ("failed", "signaled"), result
    assert (result.exit_code, result.signal, result.killed) == (143, 15, True)


@line("2")
async def test_a_signal_that_the_job_ignores_lets_it_run(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("USR1"), Trap("TERM", 2), Say("ready"), Forever(), until="ready")
    await bench.executor.send_signal(execution_id, "USR1")
    await bench.executor.send_signal(execution_id, 15)
    assert (await bench.executor.wait(execution_id)).exit_code == 2


@line("5")
async def test_a_signal_to_one_that_does_not_run_is_refused(bench: Bench) -> None:
    result = await bench.run()
    with pytest.raises(ExecutionNotRunning) as caught:
        await bench.executor.send_signal(result.execution_id, 15)
    assert (caught.value.status, caught.value.execution_id) == ("success", result.execution_id)


@line("5", needs={"pause"})
async def test_a_paused_job_is_cancelled_without_a_resume(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    await bench.executor.pause(execution_id)
    assert await bench.executor.get_status(execution_id) == "paused"
    await bench.executor.cancel(execution_id, grace=5)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.exit_code) == ("cancelled", 143), result
