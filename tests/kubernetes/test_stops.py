"""Jobs that are to end, and whose containers cannot be talked to just then: over what stands in for a cluster."""

from __future__ import annotations

import asyncio

import pytest

from dms_executor.errors import EngineUnreachable
from dms_executor.kubernetes import pods

from .apiserver import ApiServer
from .conftest import Bench
from .test_breaks import heard

WITHIN = 60.0
_OBEYS = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 1000 & wait $!; done"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod whose end is not told at once has none."""
    monkeypatch.setattr(pods, "_TELLING", 0.1)


async def test_a_cancel_that_could_not_be_sent_is_sent_again(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _OBEYS)
    await heard(alone, execution_id, b"ready")
    server.stumbles["GET exec"] = 3
    with pytest.raises(EngineUnreachable, match="not stopped yet"):
        await alone.executor.cancel(execution_id)
    result = await asyncio.wait_for(alone.executor.wait(execution_id), WITHIN)
    assert (result.reason, result.exit_code, result.stdout) == ("cancelled", 4, b"ready\nbye\n"), result


async def test_a_caller_whose_time_is_over_ends_its_job_over_a_server_that_stumbles(
    alone: Bench, server: ApiServer
) -> None:
    request = alone.request("sh", "-c", _OBEYS)
    running = asyncio.create_task(alone.executor.run(request))
    async for event in alone.executor.events(after=0):
        if event.status == "running":
            break
    await heard(alone, request.execution_id, b"ready")
    server.stumbles["GET exec"] = 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, WITHIN)
    result = await asyncio.wait_for(alone.executor.wait(request.execution_id), WITHIN)
    assert (result.reason, result.exit_code, result.stdout) == ("cancelled", 4, b"ready\nbye\n"), result
