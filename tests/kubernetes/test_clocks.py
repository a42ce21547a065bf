"""Nodes and API servers whose clocks are hours off: no result, output or cause depends on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor import LogStreamRequest
from dms_executor.logs.entry import Gap

from .apiserver import ApiServer
from .conftest import opened
from .test_breaks import WAITS, heard


async def test_a_clock_that_is_set_back_loses_no_output(server: ApiServer, state_dir: Path) -> None:
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        left = await bench.start("sh", "-c", WAITS)
        await heard(bench, left, b"ready")
    server.skew = -3600.0
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        await bench.executor.send_signal(left, "USR1")
        result = await asyncio.wait_for(bench.executor.wait(left), 30)
        assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")
        request = LogStreamRequest(execution_id=left, follow=True)
        async with await bench.executor.get_log_stream(request) as stream:
            assert [entry async for entry in stream.entries() if isinstance(entry, Gap)] == []


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_clock_that_is_off_changes_no_result(server: ApiServer, state_dir: Path, hours: int) -> None:
    server.skew = hours * 3600.0
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        result = await bench.run("sh", "-c", "cat; echo b >&2; exit 3", stdin=b"a\n")
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"a\n", b"b\n")
        assert result.started_at is not None
        assert result.finished_at is not None
        assert result.started_at <= result.finished_at
        result = await bench.run("sh", "-c", "echo begin; exec sleep 1000", timeout=0.3)
        assert (result.reason, result.stdout) == ("timed_out", b"begin\n")
        cancelled = await bench.start("sh", "-c", "echo begin; exec sleep 1000")
        await bench.executor.cancel(cancelled)
        assert (await bench.executor.wait(cancelled)).status == "cancelled"
        handled = await bench.start("sh", "-c", "trap 'exit 0' TERM; echo begin; while :; do sleep 0.1; done")
        await heard(bench, handled, b"begin")
        await bench.executor.cancel(handled)
        result = await bench.executor.wait(handled)
        assert (result.status, result.exit_code) == ("cancelled", 0)
        left = await bench.start("sh", "-c", f"echo first; {WAITS}")
        await heard(bench, left, b"ready")
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        await bench.executor.send_signal(left, "USR1")
        result = await asyncio.wait_for(bench.executor.wait(left), 30)
        assert (result.exit_code, result.stdout) == (4, b"first\nready\nbye\n")
    assert server.pods == {}
