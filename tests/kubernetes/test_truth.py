"""What is taken for the truth of a job where its pod, its log or its node tells half of it, or it lies itself."""

from __future__ import annotations

import asyncio
import base64
import struct
from pathlib import Path

import msgspec
import pytest

from dms_executor import LogStreamRequest, recovery
from dms_executor.engine import Execution, Handle
from dms_executor.kubernetes import KubernetesEngine, hearing, output
from dms_executor.kubernetes.names import INIT_FOLDER, REPORT
from dms_executor.kubernetes.view import seen
from dms_executor.lifecycle import pull
from dms_executor.logs.entry import Gap
from dms_executor.supervisor.said import Report

from .apiserver import ApiServer
from .conftest import Bench, opened

_WAITS = "trap 'echo bye; exit 4' USR1; echo ready; while :; do sleep 1000 & wait $!; done"
_EXITED = base64.b64encode(struct.pack("<IB3xI", 4, 98, 0)).decode()
_LIES = f"printf 'r 0 0 {_EXITED}\\n' > {REPORT}; head -c 5000 /dev/zero | tr '\\0' x >> {REPORT}; {_WAITS}"


async def left_to_end(server: ApiServer, state: Path, script: str) -> str:
    """A job whose caller goes once it is ready, and which ends with nobody there."""
    async with opened(state, str(server.kubeconfig), clears=False) as bench:
        execution_id = await bench.start("sh", "-c", script)
        async with await bench.executor.attach(execution_id, from_start=True) as session:
            assert await session.read() == ("stdout", b"ready\n")
        container = server.containers[await bench.pod(execution_id)]
    await (await container.execute([f"{INIT_FOLDER}/dms-init", "-k", "10"], has_input=False)).wait()
    await container.ended.wait()
    return execution_id


async def gaps(bench: Bench, execution_id: str) -> list[tuple[str, int]]:
    """Those of its log, which has ended."""
    request = LogStreamRequest(execution_id=execution_id, follow=True)
    async with await bench.executor.get_log_stream(request) as stream:
        return [(entry.stream, entry.bytes) async for entry in stream.entries() if isinstance(entry, Gap)]


async def prepared(bench: Bench, *argv: str) -> tuple[KubernetesEngine, Execution, Handle]:
    """A pod whose init waits for the go, and of which no record tells."""
    core = bench.executor._core
    engine = await core.engine("kubernetes")
    assert isinstance(engine, KubernetesEngine)
    x = core.execution(bench.request(*argv))
    await asyncio.to_thread(x.folder.mkdir, parents=True)
    return engine, x, await engine.create(x, await engine.prepare(x, lambda _: None))


async def test_a_job_cannot_lie_about_its_end(server: ApiServer, state_dir: Path) -> None:
    execution_id = await left_to_end(server, state_dir, _LIES)
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        result = await asyncio.wait_for(bench.executor.wait(execution_id), 30)
        assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")


async def test_what_was_lost_of_a_logs_end_is_a_gap(
    server: ApiServer, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_PATIENCE", 0.0)
    execution_id = await left_to_end(server, state_dir, _WAITS)
    server.stumbles["GET log"] = 1 << 30
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        result = await asyncio.wait_for(bench.executor.wait(execution_id), 30)
        assert (result.exit_code, result.stdout) == (4, b"ready\n")
        assert await gaps(bench, execution_id) == [("stdout", 4)]


async def test_a_kubelet_that_is_silent_for_a_while_costs_nothing_of_an_ended_pods_log(
    server: ApiServer, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_AGAIN", (0.01,))
    monkeypatch.setattr(pull, "BACKOFF", (0.01,))
    execution_id = await left_to_end(server, state_dir, _LIES)
    server.requests.clear()
    server.stumbles["GET log"] = 1 << 30
    async with opened(state_dir, str(server.kubeconfig)) as bench, asyncio.timeout(50):
        waiting = asyncio.create_task(bench.executor.wait(execution_id))
        while server.requests.get("GET log", 0) < 20 and not waiting.done():
            await asyncio.sleep(0.01)
        assert not waiting.done()
        server.stumbles.clear()
        result = await waiting
        # What the job wrote into its message says 0, and less output.
        assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")
        assert await gaps(bench, execution_id) == []


async def test_a_kubelet_that_is_silent_for_good_ends_the_waiting(
    server: ApiServer, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_AGAIN", (0.01,))
    monkeypatch.setattr(pull, "BACKOFF", (0.01,))
    execution_id = await left_to_end(server, state_dir, _WAITS)
    server.stumbles["GET log"] = 1 << 30
    server.requests.clear()
    async with opened(state_dir, str(server.kubeconfig)) as bench, asyncio.timeout(50):
        waiting = asyncio.create_task(bench.executor.wait(execution_id))
        while server.requests.get("GET log", 0) < 20:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(hearing, "_PATIENCE", 0.0)
        assert (await waiting).exit_code == 4
        assert await gaps(bench, execution_id) == [("stdout", 4)]
    assert server.pods == {}


async def test_a_log_whose_dead_node_nobody_closes_holds_no_result_up(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_SILENT", 0.05)
    monkeypatch.setattr(hearing, "_BRIEF", 0.0)
    monkeypatch.setattr(output, "_SILENCE", 0.05)
    execution_id = await alone.start("sh", "-c", _WAITS)
    name = await alone.pod(execution_id)
    server.gives.clear()
    server.stays.add(name)
    await alone.client.call("DELETE", f"pods/{name}", gracePeriodSeconds="1")
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert result.reason == "engine_lost"
    assert await gaps(alone, execution_id) != []
    assert server.pods == {}


async def test_a_pod_that_is_gone_is_lost_in_the_clusters_last_words(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _WAITS)
    name = await alone.pod(execution_id)
    reason = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "make room"}
    server.pods[name]["status"]["conditions"] = [reason]
    server._remove(name)
    server.containers[name].kill()
    result = await asyncio.wait_for(alone.executor.wait(execution_id), 30)
    assert (result.reason, result.error_msg) == ("engine_lost", "PreemptionByScheduler: make room")


async def test_what_was_not_let_go_is_withdrawn(alone: Bench, server: ApiServer) -> None:
    engine, x, handle = await prepared(alone, "sh", "-c", "echo never")
    assert await engine.withdraw(x, handle)
    container = server.containers[handle.engine_ids["pod"]]
    assert b"o 0" not in container.log.read_bytes()
    await engine.destroy(x, handle)


async def test_what_was_let_go_is_not_withdrawn(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_PULLED", 0.1)
    engine, x, handle = await prepared(alone, "sh", "-c", _WAITS)
    await engine.start(x, handle)
    assert not await engine.withdraw(x, handle)
    container = server.containers[handle.engine_ids["pod"]]
    container.log.write_bytes(b"")  # a node that begins a new file
    assert not await engine.withdraw(x, handle)
    await engine.signal(x, handle, 10)
    assert (await asyncio.wait_for(engine.watch(x, handle), 30)).code == 4
    await engine.destroy(x, handle)


async def test_a_pod_that_is_gone_leaves_its_logs_word_before_its_jobs_file(alone: Bench) -> None:
    engine, x, handle = await prepared(alone, "true")
    engine._last_word(x, Report(status=3 << 8))
    lie = {"terminated": {"exitCode": 0, "message": f"r 0 0 {_EXITED}\n"}}
    gone = seen({"metadata": {"name": "n"}, "status": {"containerStatuses": [{"name": "job", "state": lie}]}})
    assert (await engine._word_of(x, msgspec.structs.replace(gone, was_removed=True))).status == 3 << 8
    await engine.destroy(x, handle)


async def test_a_pod_that_its_node_does_not_end_is_forced_off_by_whoever_comes(
    server: ApiServer, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        first, x, handle = await prepared(bench, "true")
        name = handle.engine_ids["pod"]
        server.stays.add(name)
        leaving = asyncio.create_task(first.destroy(x, handle))
        while "deletionTimestamp" not in server.pods[name]["metadata"]:
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.wait([leaving])
    monkeypatch.setattr("dms_executor.kubernetes.engine._REMOVAL", 3.0)
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        engine = await bench.executor._core.engine("kubernetes")
        await asyncio.wait_for(engine.destroy(x, handle), 30)
        assert name not in server.pods


async def test_a_pod_that_does_not_go_keeps_no_recovery_waiting(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_REMOVAL", 0.1)
    _, _, handle = await prepared(alone, "true")
    name = handle.engine_ids["pod"]
    server.stays.add(name)
    report = await asyncio.wait_for(alone.executor.recover(), 30)
    assert report.leftovers == []
    assert "deletionTimestamp" in server.pods[name]["metadata"]
    assert (await alone.run("sh", "-c", "exit 3")).exit_code == 3
    server.stays.clear()
    server.containers[name].kill()
    while name in server.pods:
        await asyncio.sleep(0.01)
