"""Section 9: how long logs, results and records are kept."""

from __future__ import annotations

import pytest

from ...errors import ExecutionNotFound, ResultExpired
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever, Say


@line("9")
async def test_persist_logs_0_drops_the_log_once_delivered(bench: Bench) -> None:
    result = await bench.run(Say("once"), Exit(2), persist_logs=0.0)
    assert (result.exit_code, result.stdout) == (2, b"once\n")
    with pytest.raises(ResultExpired) as caught:
        await bench.executor.wait(result.execution_id)
    assert caught.value.execution_id == result.execution_id
    with pytest.raises(ResultExpired):
        await bench.output(result.execution_id)
    assert (await bench.executor.inspect(result.execution_id)).status == "failed"


@line("9")
async def test_persist_logs_0_waits_for_the_first_delivery(bench: Bench) -> None:
    execution_id = await bench.start(Say("kept"), Exit(0), persist_logs=0.0)
    await bench.executor.wait_for_status(execution_id, "success")
    await bench.open()
    assert (await bench.executor.wait(execution_id)).stdout == b"kept\n"


@line("9")
async def test_cleanup_drops_logs_whose_time_is_over(bench: Bench) -> None:
    short = await bench.run(Say("short"), persist_logs=1e-6)
    long = await bench.run(Say("long"))
    await bench.executor.cleanup()
    with pytest.raises(ResultExpired):
        await bench.executor.wait(short.execution_id)
    assert await bench.executor.get_status(short.execution_id) == "success"
    assert (await bench.executor.wait(long.execution_id)).stdout == b"long\n"


@line("9")
async def test_cleanup_forgets_records_whose_time_is_over(bench: Bench) -> None:
    result = await bench.run()
    await bench.open(record_retention=0.0)
    report = await bench.executor.cleanup()
    assert report.executions == 1
    with pytest.raises(ExecutionNotFound):
        await bench.executor.get_status(result.execution_id)


@line("9")
async def test_cleanup_leaves_what_runs_unless_told(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    await bench.executor.cleanup()
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.cleanup(running=True)
    assert (await bench.executor.wait(execution_id)).status == "cancelled"
