"""Jobs that are to end, and whose containers cannot be talked to just then: over what stands in for a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from dms_executor.engine import Exit
from dms_executor.errors import EngineUnreachable
from dms_executor.kubernetes import body, hearing, output, pods, signals
from dms_executor.kubernetes.client import ApiError, Client
from dms_executor.kubernetes.names import CONTAINER
from dms_executor.kubernetes.sent import Sent

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


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [(_OBEYS, 4, b"ready\nbye\n"), ("trap '' TERM; echo ready; while :; do sleep 0.1; done", 137, b"ready\n")],
    ids=["obeys", "ignores"],
)
async def test_a_job_in_whose_container_nothing_starts_is_ended_with_its_pod(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch, script: str, code: int, said: bytes
) -> None:
    monkeypatch.setattr(signals, "_PATIENCE", 0.3)
    execution_id = await alone.start("sh", "-c", script)
    await heard(alone, execution_id, b"ready")
    server.stumbles["GET exec"] = 1 << 30
    server.requests.pop("DELETE pods", None)
    with pytest.raises(EngineUnreachable):
        await alone.executor.cancel(execution_id, grace=1)
    assert "DELETE pods" not in server.requests, "a container that refuses once may take it the next time"
    result = await asyncio.wait_for(alone.executor.wait(execution_id), WITHIN)
    assert (result.status, result.reason, result.exit_code) == ("cancelled", "cancelled", code), result
    assert result.stdout == said
    assert server.stumbles["GET exec"] < (1 << 30) - 2


async def test_a_cancel_of_a_job_whose_node_is_dead_comes_to_its_end(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_PATIENCE", 0.0)
    monkeypatch.setattr(hearing, "_SILENT", 0.1)
    monkeypatch.setattr(output, "_SILENCE", 0.3)
    execution_id = await alone.start("sh", "-c", _OBEYS)
    await heard(alone, execution_id, b"ready")
    server.stumbles["GET exec"] = 1 << 30
    name = await alone.pod(execution_id)
    server.stays.add(name)
    with pytest.raises(EngineUnreachable):
        await alone.executor.cancel(execution_id, grace=0)
    result = await asyncio.wait_for(alone.executor.wait(execution_id), WITHIN)
    assert (result.status, result.reason, result.stdout) == ("cancelled", "cancelled", b"ready\n"), result
    assert "does not answer" in result.error_msg
    while server.pods:
        await asyncio.sleep(0.01)
    server.containers[name].kill()


async def test_a_cluster_that_is_away_says_nothing_of_its_containers(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_PATIENCE", 0.0)
    execution_id = await alone.start("sh", "-c", _OBEYS)
    await heard(alone, execution_id, b"ready")
    server.requests.pop("DELETE pods", None)
    server.stumbles |= {"GET exec": 1 << 30, "GET pods": 1 << 30}
    with pytest.raises(EngineUnreachable):
        await alone.executor.cancel(execution_id)
    while server.stumbles["GET exec"] > (1 << 30) - 6:
        await asyncio.sleep(0.05)
    assert "DELETE pods" not in server.requests
    server.stumbles.clear()
    result = await asyncio.wait_for(alone.executor.wait(execution_id), WITHIN)
    assert (result.reason, result.exit_code) == ("cancelled", 4), result


async def test_a_pod_that_its_own_deadline_ended_has_timed_out(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _OBEYS, timeout=3600)
    await heard(alone, execution_id, b"ready")
    name = await alone.pod(execution_id)
    pod = server.pods[name]
    assert pod["spec"]["activeDeadlineSeconds"] > 3600 + 1800
    server.tells.clear()
    os.kill(server.containers[name].first, signal.SIGTERM)  # as a kubelet does, which tells of the deadline then
    await server.containers[name].ended.wait()
    ended = {CONTAINER: {"terminated": {"exitCode": 4, "reason": "Error"}}}
    server._status(name, "Failed", ended, reason="DeadlineExceeded", message="longer than the specified deadline")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), WITHIN)
    assert (result.reason, result.exit_code, result.stdout) == ("timed_out", 4, b"ready\nbye\n"), result


@pytest.mark.parametrize("skew", [-18_000, 0, 18_000])
@pytest.mark.parametrize(("at", "cause"), [(1.0, "stop"), (1.9, "stop"), (2.5, "deadline")])
def test_what_came_first_is_known_by_this_hosts_clock(skew: int, at: float, cause: str) -> None:
    begun = datetime(2026, 11, 28, tzinfo=UTC)
    now = int(begun.timestamp()) * 10**9
    started = begun + timedelta(seconds=skew)
    end = Exit(started_at=started, finished_at=started + timedelta(seconds=3), stopped_by="deadline")
    sent = Sent(signalled=True, stopped=True, at=now + int(at * 1e9), go=(now - 10**7, now + 10**7))
    assert sent.judged(end, 2.0).stopped_by == cause
    assert Sent(go=sent.go).judged(end, 2.0).stopped_by == "deadline", "no stop was sent at all"


@pytest.mark.parametrize(
    ("script", "codes"), [(_OBEYS, {4}), ("trap '' TERM; echo ready; while :; do sleep 0.1; done", {137, None})]
)
async def test_a_kubelet_ends_a_job_in_whose_container_nothing_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str, codes: set[int | None]
) -> None:
    async def refused(*_arguments: object) -> tuple[int, str]:
        raise ApiError("resource temporarily unavailable", status=500)

    monkeypatch.setattr(signals, "_PATIENCE", 0.5)
    execution_id = await bench.start("sh", "-c", script)
    await heard(bench, execution_id, b"ready")
    monkeypatch.setattr(Client, "execute", refused)
    with pytest.raises(EngineUnreachable):
        await bench.executor.cancel(execution_id, grace=2)
    result = await asyncio.wait_for(bench.executor.wait(execution_id), 90)
    assert (result.status, result.reason) == ("cancelled", "cancelled"), result
    assert result.exit_code in codes, result
    assert result.stdout.startswith(b"ready\n")


async def test_a_kubelet_ends_a_job_whose_init_does_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_deadline", lambda *_arguments: 20)
    result = await asyncio.wait_for(bench.run("sh", "-c", _OBEYS, timeout=3600), 110)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 4), result
    assert result.stdout.startswith(b"ready\n")
