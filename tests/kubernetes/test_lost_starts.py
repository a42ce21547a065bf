"""A go of which nobody hears for long: the init's word decides what became of it, once it is to be had."""

from __future__ import annotations

import asyncio

import pytest

from dms_executor.errors import EngineUnreachable
from dms_executor.kubernetes import starting

from .apiserver import ApiServer
from .conftest import Bench

WITHIN = 60.0


@pytest.mark.parametrize(
    ("silent", "reason", "code", "said"), [("GET log", "exited", 3, b"ran\n"), ("GET exec", "start_failed", None, b"")]
)
async def test_a_start_that_is_not_heard_of(
    alone: Bench,
    server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    silent: str,
    reason: str,
    code: int | None,
    said: bytes,
) -> None:
    await alone.run("true")
    server.stumbles[silent] = 1 << 30
    monkeypatch.setattr(starting, "_STARTING", 2.0)
    request = alone.request("sh", "-c", "echo ran; exit 3")
    with pytest.raises(EngineUnreachable, match="it is not known whether the job has started"):
        await alone.executor.run(request)
    server.stumbles.clear()
    result = await asyncio.wait_for(alone.executor.wait(request.execution_id), WITHIN)
    assert (result.reason, result.exit_code, result.stdout) == (reason, code, said), result
