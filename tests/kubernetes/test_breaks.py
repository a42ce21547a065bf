"""Watches that break, histories that are forgotten, callers that come back: over what stands in for a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from dms_executor import LogStreamRequest
from dms_executor.errors import EngineUnreachable, ExecutionCancelled, ExecutionNotRunning, StartFailed
from dms_executor.kubernetes import KubernetesEngine
from dms_executor.kubernetes.names import INIT_FOLDER, TOKEN
from dms_executor.kubernetes.view import seen

from .apiserver import ApiServer, standing
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


WAITS = "trap 'echo bye; exit 4' USR1; echo ready; while :; do sleep 1000 & wait $!; done"


async def test_a_watch_that_is_cut_goes_on(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", WAITS)
    await heard(alone, execution_id, b"ready")
    server.end_watches()
    await alone.executor.send_signal(execution_id, "USR1")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")


async def test_a_watch_that_is_too_old_begins_with_a_list(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", WAITS)
    await heard(alone, execution_id, b"ready")
    server.forget()
    while server.requests["WATCH pods"] < 2:
        await asyncio.sleep(0.01)
    await alone.executor.send_signal(execution_id, "USR1")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert result.exit_code == 4


async def test_what_comes_and_goes_before_the_watch_begins_is_seen(alone: Bench, server: ApiServer) -> None:
    server.watches.clear()
    request = alone.request("true", params={"node_selector": {"there": "none"}})
    running = asyncio.create_task(alone.executor.run(request))
    while not server.pods:
        await asyncio.sleep(0.01)
    cancelling = asyncio.create_task(alone.executor.cancel(request.execution_id))
    while server.pods:
        await asyncio.sleep(0.01)
    server.watches.set()
    with pytest.raises(ExecutionCancelled):
        await asyncio.wait_for(running, 30)
    await asyncio.wait_for(cancelling, 30)


async def test_what_is_made_and_gone_while_a_list_is_on_its_way_is_not_kept(alone: Bench, server: ApiServer) -> None:
    await alone.run("true")
    engine = await alone.executor._core.engine("kubernetes")
    assert isinstance(engine, KubernetesEngine)
    pods = engine._sites.named(None).pods
    raw = {"metadata": {"name": "x", "labels": {TOKEN: "t"}, "resourceVersion": "1"}}
    listing = asyncio.create_task(pods._relist())
    await asyncio.sleep(0)
    pods.learn(seen(raw))
    assert pods.known("t") is not None
    await listing
    assert pods.known("t") is None


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
        execution_id = await bench.start("sh", "-c", WAITS)
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


async def test_without_the_right_to_execute_no_job_starts(alone: Bench, server: ApiServer) -> None:
    server.rights.remove(("pods/exec", "get"))
    with pytest.raises(StartFailed, match="Forbidden"):
        await asyncio.wait_for(alone.run("true"), 30)
    assert server.pods == {}


@pytest.mark.parametrize("stdin", [b"", b"words"], ids=["signalled", "handed"])
async def test_a_go_whose_answer_is_lost_was_one(alone: Bench, server: ApiServer, stdin: bytes) -> None:
    server.loses = 1
    result = await alone.run("sh", "-c", "echo ran; cat; exit 3", stdin=stdin)
    assert (result.exit_code, result.stdout) == (3, b"ran\n" + stdin)


@pytest.mark.parametrize("what", ["GET exec", "GET log"])
async def test_a_start_outlives_a_server_that_stumbles(alone: Bench, server: ApiServer, what: str) -> None:
    await alone.run("true")
    server.stumbles[what] = 1
    result = await alone.run("sh", "-c", "echo ran; exit 3")
    assert (result.exit_code, result.stdout) == (3, b"ran\n")
    assert server.stumbles[what] == 0


async def test_what_a_busy_server_turns_away_comes_again(alone: Bench, server: ApiServer) -> None:
    server.throttles |= {"POST pods": 3, "GET log": 2, "DELETE pods": 2}
    assert (await alone.run("sh", "-c", "exit 3")).exit_code == 3
    assert server.throttles["POST pods"] == server.throttles["GET log"] == 0


async def test_a_pod_that_waits_for_a_place_outlives_a_server_that_stumbles(alone: Bench, server: ApiServer) -> None:
    request = alone.request("true", params={"node_selector": {"there": "none"}})
    running = asyncio.create_task(alone.executor.run(request))
    while not server.pods:
        await asyncio.sleep(0.01)
    server.stumbles["GET pods"] = 1
    server.end_watches()
    before = server.requests.get("WATCH pods", 0)
    while server.stumbles["GET pods"] or server.requests["WATCH pods"] == before:
        await asyncio.sleep(0.01)
    assert not running.done()
    await alone.executor.cancel(request.execution_id)
    with pytest.raises(ExecutionCancelled):
        await asyncio.wait_for(running, 30)


async def test_a_log_that_a_node_does_not_give_undoes_no_job(server: ApiServer, state_dir: Path) -> None:
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        execution_id = await bench.start("sh", "-c", WAITS)
        await heard(bench, execution_id, b"ready")
        engine = await bench.executor._core.engine("kubernetes")
        server.stumbles["GET log"] = 100
        execution = bench.executor._core.execution(bench.request("true"))
        ((token, observed),) = (await engine.survey()).items()
        assert observed.handle is not None
        with pytest.raises(EngineUnreachable):
            await engine.withdraw(msgspec.structs.replace(execution, token=token), observed.handle)
        server.stumbles.clear()
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        await bench.executor.send_signal(execution_id, "USR1")
        assert (await asyncio.wait_for(bench.executor.wait(execution_id), 30)).exit_code == 4


async def test_without_the_right_to_watch_nothing_is_waited_for(alone: Bench, server: ApiServer) -> None:
    server.rights.remove(("pods", "watch"))
    with pytest.raises(EngineUnreachable, match="Forbidden") as caught:
        await alone.run("true", params={"node_selector": {"there": "none"}})
    assert "rights" in caught.value.mend


async def test_watches_that_end_at_once_are_not_asked_for_without_a_pause(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", WAITS)
    server.stumbles["WATCH pods"] = 1000
    server.requests.clear()
    server.end_watches()
    await asyncio.sleep(1)
    assert 1 <= server.requests["WATCH pods"] <= 5
    server.stumbles.clear()
    await alone.executor.send_signal(execution_id, "USR1")
    assert (await asyncio.wait_for(alone.executor.wait(execution_id), 30)).exit_code == 4


async def test_another_cluster_says_nothing_of_a_job(server: ApiServer, state_dir: Path, tmp_path: Path) -> None:
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        execution_id = await bench.start("sh", "-c", WAITS)
        await heard(bench, execution_id, b"ready")
    (tmp_path / "other").mkdir()
    async with standing(tmp_path / "other", server.lower) as other:
        async with opened(state_dir, str(other.kubeconfig), clears=False) as bench:
            await bench.executor.recover()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(bench.executor.wait(execution_id), 1)
            assert await bench.executor.get_status(execution_id) == "running"
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        await bench.executor.send_signal(execution_id, "USR1")
        assert (await asyncio.wait_for(bench.executor.wait(execution_id), 30)).exit_code == 4


async def test_who_attaches_to_a_job_without_an_open_input_hears_it(alone: Bench) -> None:
    execution_id = await alone.start("sh", "-c", WAITS)
    async with await alone.executor.attach(execution_id, from_start=True) as session:
        assert await session.read() == ("stdout", b"ready\n")
        with pytest.raises(ExecutionNotRunning, match="never open"):
            await session.write(b"x")
        session.signal("KILL")
        assert await session.read() is None
        assert await session.wait() == 137


@pytest.mark.parametrize("code", [0, 3])
async def test_a_job_has_ended_when_its_log_says_so(alone: Bench, server: ApiServer, code: int) -> None:
    server.tells.clear()
    result = await asyncio.wait_for(alone.run("sh", "-c", f"echo here; exit {code}"), 30)
    assert (result.exit_code, result.stdout) == (code, b"here\n")


async def test_a_pod_that_is_being_deleted_is_lost_whatever_its_log_says(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", WAITS)
    await heard(alone, execution_id, b"ready")
    server.tells.clear()
    pod = server.pods[await alone.pod(execution_id)]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server._changed(pod["metadata"]["name"], "MODIFIED")
    # As a kubelet ends it: by a signal that its init passes on.
    container = server.containers[pod["metadata"]["name"]]
    await (await container.execute([f"{INIT_FOLDER}/dms-init", "-k", "10"], has_input=False)).wait()
    await container.ended.wait()
    server.tells.set()
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.status, result.reason) == ("failed", "engine_lost")
    assert "deleted" in result.error_msg or "gone" in result.error_msg


@pytest.mark.parametrize("end", ["exit 0", "exit 4", "trap - TERM; kill -TERM $$"])
async def test_a_signal_of_long_ago_is_no_end_of_a_deleted_pod(alone: Bench, server: ApiServer, end: str) -> None:
    waits = f"trap 'echo heard' USR1; trap '{end}' TERM; echo ready; while :; do sleep 1000 & wait $!; done"
    execution_id = await alone.start("sh", "-c", waits)
    await heard(alone, execution_id, b"ready")
    await alone.executor.send_signal(execution_id, "USR1")
    await heard(alone, execution_id, b"heard")
    server.tells.clear()
    pod = server.pods[await alone.pod(execution_id)]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server._changed(pod["metadata"]["name"], "MODIFIED")
    container = server.containers[pod["metadata"]["name"]]
    os.kill(container.first, signal.SIGTERM)  # as a kubelet does
    await container.ended.wait()
    server.tells.set()
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.status, result.reason) == ("failed", "engine_lost")


async def test_who_ended_a_job_by_a_signal_is_the_clusters_to_say(alone: Bench, server: ApiServer) -> None:
    server.tells.clear()
    execution_id = await alone.start("sh", "-c", "echo here; kill -TERM $$")
    await heard(alone, execution_id, b"here")
    (pod,) = server.pods.values()
    await server.containers[pod["metadata"]["name"]].ended.wait()
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.tells.set()
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.reason, result.stdout) == ("engine_lost", b"here\n")
