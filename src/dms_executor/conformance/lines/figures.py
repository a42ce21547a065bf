"""Section 2: what a running job uses, once and again and again, and what it has used at its end."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutionNotRunning, InvalidRequest
from ...types import ByteSize, Resources, Stats
from ..bench import Bench
from ..line import line
from ..steps import Forever, Say, Shell

_NEEDS = {"stats", "shell"}
_BUSY = Shell("while :; do :; done")
_NUMBERS = (
    "cpu_seconds",
    "cpu_percent",
    "memory_bytes",
    "memory_cache_bytes",
    "pids",
    "io_read_bytes",
    "io_write_bytes",
    "network_received_bytes",
    "network_sent_bytes",
)


def _check(sample: Stats) -> None:
    for name in _NUMBERS:
        value = getattr(sample, name)
        assert value is None or 0 <= value < 2**62, f"{name} is {value}"


@line("12", needs=_NEEDS)
async def test_stats_of_a_busy_job_grow(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), _BUSY, until="ready")
    first = await bench.executor.stats(execution_id)
    assert first.cpu_percent is None, "there is no sample before the first"
    async with asyncio.timeout(30):
        while (sample := await bench.executor.stats(execution_id)).cpu_seconds == first.cpu_seconds:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    _check(first)
    _check(sample)
    assert sample.cpu_percent
    assert sample.time > first.time


@line("12", needs=_NEEDS | {"memory", "own_figures"})
async def test_stats_name_the_memory_and_its_limit(bench: Bench) -> None:
    limit = ByteSize("64MiB")
    execution_id = await bench.start(Say("ready"), Forever(), until="ready", resources=Resources(memory=limit))
    sample = await bench.executor.stats(execution_id)
    assert sample.memory_limit_bytes == limit
    assert sample.memory_bytes is not None
    assert 0 < sample.memory_bytes <= limit


@line("12", needs=_NEEDS | {"network_user"})
async def test_stats_count_what_a_network_carries(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready", network="user")
    sample = await bench.executor.stats(execution_id)
    _check(sample)
    assert sample.network_received_bytes is not None
    assert sample.network_sent_bytes is not None


@line("12", needs=_NEEDS)
async def test_a_stream_of_stats_ends_with_the_job(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), _BUSY, until="ready")
    samples: list[Stats] = []
    async with asyncio.timeout(40):
        async for sample in bench.executor.stats_stream(execution_id, interval=0.1):
            samples.append(sample)
            if len(samples) == 3:
                await bench.executor.send_signal(execution_id, "KILL")
    assert len(samples) >= 3
    for sample in samples:
        _check(sample)
    used = [sample.cpu_seconds for sample in samples if sample.cpu_seconds is not None]
    assert used == sorted(used)
    result = await bench.executor.wait(execution_id)
    if used and result.usage.cpu_seconds is not None and "own_figures" in bench.subject.traits:
        assert result.usage.cpu_seconds >= used[-1], "the result has less than the last sample had"


@line("12", needs=_NEEDS)
async def test_a_stream_of_stats_does_not_wait_for_its_interval_at_the_end(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready")
    async with asyncio.timeout(30):
        async for _ in bench.executor.stats_stream(execution_id, interval=3600):
            await bench.executor.send_signal(execution_id, "KILL")


@line("5", needs={"stats"})
async def test_stats_of_one_that_does_not_run_are_refused(bench: Bench) -> None:
    result = await bench.run()
    with pytest.raises(ExecutionNotRunning):
        await bench.executor.stats(result.execution_id)
    with pytest.raises(ExecutionNotRunning):
        async for _ in bench.executor.stats_stream(result.execution_id):
            pytest.fail("a sample of a job that has ended")


@line("2")
@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
async def test_an_interval_that_is_none_is_refused(bench: Bench, wrong: float) -> None:
    with pytest.raises(InvalidRequest):
        bench.executor.stats_stream("any", interval=wrong)


@line("12")
async def test_events_without_follow_end_with_the_last(bench: Bench) -> None:
    result = await bench.run()
    async with asyncio.timeout(20):
        seen = [event async for event in bench.executor.events(after=0, follow=False)]
    assert [event.status for event in seen] == ["pending", "running", "success"]
    assert {event.execution_id for event in seen} == {result.execution_id}
