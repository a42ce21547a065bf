"""Section 5: the timeout of a job, and a cancel that meets it."""

from __future__ import annotations

import asyncio

import pytest

from ..bench import Bench
from ..line import SLOW, line
from ..steps import Exit, Forever, Ignore, Say, Trap


@line("5")
async def test_a_job_past_its_timeout_is_ended(bench: Bench) -> None:
    result = await bench.run(Say("begun"), Forever(), timeout=0.5)
    assert (result.status, result.reason, result.killed) == ("failed", "timed_out", True), result
    assert (result.exit_code, result.signal, result.stdout) == (143, 15, b"begun\n")
    assert "0.5" in result.error_msg


@line("12")
async def test_a_job_that_handles_the_timeouts_term_keeps_its_code(bench: Bench) -> None:
    result = await bench.run(Trap("TERM", 9), Forever(), timeout=0.5)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 9), result


@line("12")
async def test_exit_0_at_the_timeouts_term_is_timed_out_all_the_same(bench: Bench) -> None:
    result = await bench.run(Trap("TERM", 0), Forever(), timeout=0.5)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 0), result


@line("5")
async def test_a_job_that_ignores_the_timeouts_term_is_killed(bench: Bench) -> None:
    await bench.open(grace=0.2)
    result = await bench.run(Ignore("TERM"), Forever(), timeout=0.5)
    assert (result.reason, result.exit_code, result.signal) == ("timed_out", 137, 9), result


@line("12")
async def test_a_cancel_in_the_grace_of_a_timeout_joins_it(bench: Bench) -> None:
    await bench.open(grace=1000)
    request = bench.request(Ignore("TERM"), Say("ready"), Forever(), timeout=0.5)
    await bench.executor.start(request)
    info = await bench.executor.inspect(request.execution_id)
    assert info.started_at is not None
    # The deadline itself has no sign that a caller sees: the clock is the only witness.
    await asyncio.sleep(0.5 + 0.3)
    await bench.executor.cancel(request.execution_id, grace=0.1)
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 137), result


@line("5")
async def test_a_cancel_before_the_timeout_is_the_cause(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready", timeout=2)
    await bench.executor.cancel(execution_id, grace=0.1)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason) == ("cancelled", "cancelled"), result


@line("5", needs={"pause"})
async def test_a_timeout_counts_paused_time(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready", timeout=SLOW)
    await bench.executor.pause(execution_id)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason) == ("failed", "timed_out"), result


@line("5")
async def test_a_job_that_ends_in_time_knows_nothing_of_it(bench: Bench) -> None:
    result = await bench.run(Exit(3), timeout=100)
    assert (result.reason, result.exit_code, result.killed) == ("exited", 3, False), result


@line("5", needs={"slow_preparation"})
@pytest.mark.parametrize("where", ["request", "settings"])
async def test_a_preparation_has_its_own_timeout(bench: Bench, where: str) -> None:
    from ...errors import StartFailed

    if where == "settings":
        await bench.open(prepare_timeout=0.2)
    fields = {"prepare_timeout": 0.2} if where == "request" else {}
    with pytest.raises(StartFailed) as caught:
        await bench.executor.run(bench.request(spec=bench.subject.slow(), timeout=1000, **fields))
    assert "preparation" in str(caught.value)
