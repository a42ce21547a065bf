"""Watches that break, histories that are forgotten, callers that come back: over what stands in for a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor import LogStreamRequest
from dms_executor.errors import StartFailed

from .apiserver import ApiServer
from .conftest import Bench, opened


async def heard(bench: Bench, execution_id: str, words: bytes) -> None:
    """Follows the log until it holds `words`."""
    seen = b""
    request = LogStreamRequest(execution_id=execution_id, follow=True)
    async with await bench.executor.get_log_stream(request) as stream:
        async for chunk in stream:
            seen += chunk
            if words in seen:
                return
    raise AssertionError(seen)


_WAITS = "trap 'echo bye; exit 4' USR1; echo ready; while :; do sleep 1000 & wait $!; done"


async def test_a_watch_that_is_cut_goes_on(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _WAITS)
    await heard(alone, execution_id, b"ready")
    server.end_watches()
    await alone.executor.send_signal(execution_id, "USR1")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")


async def test_a_watch_that_is_too_old_begins_with_a_list(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _WAITS)
    await heard(alone, execution_id, b"ready")
    server.forget()
    await alone.executor.send_signal(execution_id, "USR1")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert result.exit_code == 4
    assert server.requests["WATCH pods"] >= 2


async def test_many_executions_have_one_watch_and_four_calls_each(alone: Bench, server: ApiServer) -> None:
    await alone.run("true")
    server.requests.clear()
    await asyncio.gather(*(alone.run("true") for _ in range(8)))
    for info in await alone.executor.list():
        await alone.executor.remove(info.request.execution_id)
    removed = server.requests.pop("DELETE pods")  # by the end, and again by `remove`
    assert server.requests == {"POST pods": 8, "GET exec": 8, "GET log": 8}
    assert removed <= 2 * 9
    assert server.pods == {}


async def test_another_caller_goes_on_with_output_and_result(server: ApiServer, state_dir: Path) -> None:
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        execution_id = await bench.start("sh", "-c", _WAITS)
        await heard(bench, execution_id, b"ready")
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        await bench.executor.send_signal(execution_id, "USR1")
        result = await asyncio.wait_for(bench.executor.wait(execution_id), 30)
        assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")


async def test_without_a_right_a_job_is_refused_in_the_clusters_words(alone: Bench, server: ApiServer) -> None:
    server.rights.remove(("configmaps", "create"))
    with pytest.raises(StartFailed, match="Forbidden") as caught:
        await alone.run("true")
    assert "rights" in caught.value.mend
