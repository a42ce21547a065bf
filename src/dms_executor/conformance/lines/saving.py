"""Sections 2 and 5: a running job is saved to disk, and goes on later."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ..bench import Bench
from ..line import SLOW, line
from ..steps import Forever, Ignore, Say, Trap

_SAVES = {"snapshot"}


@line("2", needs=_SAVES)
async def test_a_saved_job_goes_on_where_it_was(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 3), Say("ready"), Forever(), until="ready")
    before = await bench.executor.inspect(execution_id)
    await bench.executor.snapshot(execution_id, "saved")
    await bench.open()
    info = await bench.executor.inspect(execution_id)
    assert (info.status, info.saved_as) == ("paused", "saved"), info
    assert await bench.ids() == [execution_id]
    waiting = asyncio.create_task(bench.executor.wait(execution_id))
    await bench.executor.restore("saved", execution_id)
    info = await bench.executor.inspect(execution_id)
    assert (info.status, info.saved_as, info.started_at) == ("running", None, before.started_at), info
    await bench.executor.send_signal(execution_id, "USR1")
    result = await waiting
    assert (result.reason, result.exit_code, result.stdout) == ("exited", 3, b"ready\n"), result
    assert result.started_at == before.started_at


@line("5", needs=_SAVES)
async def test_a_saved_job_that_is_cancelled_ends(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready")
    await bench.executor.snapshot(execution_id, "saved")
    await bench.executor.cancel(execution_id, grace=1000)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.killed) == ("cancelled", "cancelled", True), result
    assert result.stdout == b"ready\n"


@line("5", needs=_SAVES)
async def test_the_timeout_of_a_saved_job_goes_on(bench: Bench) -> None:
    timeout = 10 * SLOW
    execution_id = await bench.start(Ignore("TERM"), Say("ready"), Forever(), until="ready", timeout=timeout)
    await bench.executor.snapshot(execution_id, "saved")
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.killed) == ("failed", "timed_out", True), result
    assert result.stdout == b"ready\n"
    assert result.started_at is not None
    assert result.finished_at is not None
    ran = result.finished_at - result.started_at
    assert abs(ran - timedelta(seconds=timeout)) < timedelta(milliseconds=1), f"it ended after {ran}, as of its timeout"
