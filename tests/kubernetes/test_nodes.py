"""Nodes that die, kubelets and API servers that are killed: on the cluster of scripts/cluster, behind a variable."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import ByteSize, LogStreamRequest, Resources
from dms_executor.errors import ExecutorError
from dms_executor.logs.entry import Gap
from dms_executor.types import StorageVolume
from tests import cluster

from .conftest import Bench, opened
from .test_breaks import heard

pytestmark = pytest.mark.skipif(
    not os.environ.get("DMS_EXECUTOR_NODE_KILLS"), reason="it kills nodes: DMS_EXECUTOR_NODE_KILLS is not set"
)

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "cluster"
_ON_2 = {"node_selector": {"kubernetes.io/hostname": "node2"}}
_TICKS = "echo begin; n=0; while :; do n=$((n + 1)); echo tick $n; sleep 0.2; done"


def _is_whole(output: bytes) -> bool:
    """Whether it is that script's from its first byte on, run once."""
    lines = output.split(b"\n")
    return lines[0] == b"begin" and lines[1:-1] == [b"tick %d" % n for n in range(1, len(lines) - 1)]


async def _cluster(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(str(_SCRIPT), *words)
    assert await process.wait() == 0


async def _ready(bench: Bench, node: str) -> None:
    """Until the cluster takes it as one that runs pods."""
    async with asyncio.timeout(120):
        while True:
            found = await bench.client.call("GET", f"/api/v1/nodes/{node}")
            is_ready = {"Ready": "True"}.items() <= {
                c["type"]: c["status"] for c in found["status"]["conditions"]
            }.items()
            if is_ready and not found["spec"].get("taints"):
                return
            await asyncio.sleep(0.5)


@pytest.fixture
async def node2(bench: Bench) -> AsyncIterator[Bench]:
    """Made anew afterwards."""
    yield bench
    await _cluster("start-node", "2")
    await _ready(bench, "node2")


async def test_jobs_of_a_node_that_dies_are_lost_in_the_clusters_words(node2: Bench) -> None:
    jobs = await asyncio.gather(*(node2.start("sh", "-c", _TICKS, params=_ON_2) for _ in range(20)))
    elsewhere = await node2.start(
        "sh", "-c", "sleep 15; exit 3", params={"node_selector": {"kubernetes.io/hostname": "node1"}}
    )
    for job in jobs:
        await heard(node2, job, b"tick 3")
    await _cluster("kill-node", "2")
    async with asyncio.timeout(120):
        results = await asyncio.gather(*(node2.executor.wait(job) for job in jobs))
    assert {(result.status, result.reason) for result in results} == {("failed", "engine_lost")}
    assert all("Taint" in result.error_msg for result in results), results[0].error_msg
    assert all(b"tick 3\n" in result.stdout for result in results)
    assert all(_is_whole(result.stdout) for result in results)
    async with await node2.executor.get_log_stream(LogStreamRequest(execution_id=jobs[0])) as stream:
        *_, last = [entry async for entry in stream.entries()]
    assert isinstance(last, Gap), last  # who knows what it wrote after that
    assert (await node2.executor.wait(elsewhere)).exit_code == 3


async def test_a_killed_api_server_costs_nothing(bench: Bench) -> None:
    writes = "echo begin; n=0; while [ $n -lt 60 ]; do n=$((n + 1)); echo tick $n; sleep 0.2; done; exit 4"
    jobs = await asyncio.gather(*(bench.start("sh", "-c", writes) for _ in range(4)))
    ends = await bench.start("sh", "-c", "echo a; sleep 2; echo b; exit 6")  # while nobody can be told
    for job in (*jobs, ends):
        await heard(bench, job, b"\n")
    restarting = asyncio.create_task(_cluster("restart-api"))
    starting = await asyncio.gather(*(bench.run("sh", "-c", "exit 5") for _ in range(4)), return_exceptions=True)
    await restarting
    async with asyncio.timeout(120):
        results = await asyncio.gather(*(bench.executor.wait(job) for job in jobs))
        ended = await bench.executor.wait(ends)
    assert [(result.exit_code, result.stdout.count(b"\n")) for result in results] == [(4, 61)] * 4
    assert all(_is_whole(result.stdout) for result in results)
    assert (ended.exit_code, ended.stdout) == (6, b"a\nb\n")
    # One that was begun meanwhile has its result, or it was said that it does not run.
    for outcome in starting:
        assert isinstance(outcome, ExecutorError) or getattr(outcome, "exit_code", None) == 5, outcome
    assert (await bench.run("sh", "-c", "exit 5")).exit_code == 5


async def test_a_killed_kubelet_costs_nothing(bench: Bench, tmp_path: Path) -> None:
    results = tmp_path / "results"
    job = await bench.start(
        *("sh", "-c", "echo a; echo kept >/out/file; sleep 8; echo b; exit 4"),
        params=_ON_2,
        results_dir=str(results),
        outputs=[StorageVolume(target="/out")],
    )
    await heard(bench, job, b"a")
    killed, own = 0, f"/var/tmp/{os.environ.get('DMS_EXECUTOR_CLUSTER_NAME', 'dms-cluster')}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        words = (process / "cmdline").read_bytes().split(b"\0") if (process / "cmdline").exists() else []
        is_ours = any(word.startswith(own) for word in words)  # there may be other clusters
        if words[0].endswith(b"/kubelet") and b"node2" in words and is_ours:
            os.kill(int(process.name), signal.SIGKILL)
            killed += 1
    assert killed == 1
    async with asyncio.timeout(90):
        result = await bench.executor.wait(job)
    assert (result.exit_code, result.stdout) == (4, b"a\nb\n")
    assert (results / "outputs" / "out" / "file").read_text() == "kept\n"


async def test_outputs_wait_for_the_next_caller(state_dir: Path, tmp_path: Path) -> None:
    fields = {"results_dir": str(tmp_path / "results"), "outputs": [StorageVolume(target="/out")]}
    async with opened(state_dir, cluster.needed(), clears=False, admin=cluster.ADMIN) as bench:
        job = await bench.start("sh", "-c", "echo here; sleep 2; echo late >/out/file; exit 3", **fields)
        pod = await bench.pod(job)
    async with opened(tmp_path / "other", cluster.needed(), admin=cluster.ADMIN) as other:
        async with asyncio.timeout(60):
            while (await _states(other, pod))["job"].get("terminated") is None:
                await asyncio.sleep(0.2)
        assert "running" in (await _states(other, pod))["outputs"]
    async with opened(state_dir, cluster.needed(), admin=cluster.ADMIN) as bench:
        result = await bench.executor.wait(job)
        assert (result.exit_code, result.stdout) == (3, b"here\n")
    assert (tmp_path / "results" / "outputs" / "out" / "file").read_text() == "late\n"


async def test_outputs_of_a_job_that_ran_out_of_memory_come_home(bench: Bench, tmp_path: Path) -> None:
    result = await bench.run(
        *("sh", "-c", "echo kept >/out/file; exec tail /dev/zero"),
        resources=Resources(memory=ByteSize("32MiB")),
        results_dir=str(tmp_path / "results"),
        outputs=[StorageVolume(target="/out")],
    )
    assert result.reason == "oom_killed"
    assert (tmp_path / "results" / "outputs" / "out" / "file").read_text() == "kept\n"


async def _states(bench: Bench, pod: str) -> dict[str, dict[str, object]]:
    status = (await bench.client.call("GET", f"pods/{pod}"))["status"]
    return {container["name"]: container["state"] for container in status["containerStatuses"]}
