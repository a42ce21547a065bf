"""Pods that a cluster takes away, each for another reason, and those that it does not bring up: in its own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dms_executor import ExecutionResult, Resources
from dms_executor.errors import ExecutionCancelled
from dms_executor.types import StorageVolume
from tests import cluster

from .conftest import Bench, opened

_STAYS = "echo here; while :; do sleep 1000; done"
_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


def lost(result: ExecutionResult) -> str:
    """Why."""
    assert (result.status, result.reason) == ("failed", "engine_lost"), result
    return result.error_msg


async def test_a_pod_that_is_evicted_is_lost(bench: Bench) -> None:
    job = await bench.start("sh", "-c", _STAYS)
    pod = await bench.pod(job)
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    await bench.client.call("POST", f"pods/{pod}/eviction", body)
    result = await asyncio.wait_for(bench.executor.wait(job), 90)
    assert "EvictionByEvictionAPI" in lost(result)
    assert result.stdout == b"here\n"


async def test_a_pod_that_writes_too_much_is_evicted_by_its_node(state_dir: Path, tmp_path: Path) -> None:
    kubeconfig = cluster.needed()
    async with opened(state_dir, kubeconfig, admin=cluster.ADMIN, volume_size="1MiB") as bench:
        script = "echo here; head -c 8000000 /dev/zero >/out/file; while :; do sleep 1000; done"
        outputs = [StorageVolume(source=str(tmp_path / "out"), target="/out")]
        job = await bench.start("sh", "-c", script, outputs=outputs)
        result = await asyncio.wait_for(bench.executor.wait(job), 150)
        assert "exceeds the limit" in lost(result)
        assert result.stdout == b"here\n"


@pytest.fixture
async def urgent(bench: Bench) -> AsyncIterator[dict[str, Any]]:
    """A pod of another's that goes before ours, to be made."""
    name = f"urgent-{uuid4().hex[:8]}"
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1000}
    await bench.client.call("POST", _CLASSES, kind)
    container = {"name": "c", "image": cluster.IMAGE, "command": ["true"]}
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"priorityClassName": name, "restartPolicy": "Never", "containers": [container]},
    }
    await bench.client.call("DELETE", f"pods/{name}", gracePeriodSeconds="0")
    await bench.client.call("DELETE", f"{_CLASSES}/{name}")


async def test_a_pod_that_makes_room_for_another_is_lost(bench: Bench, urgent: dict[str, Any]) -> None:
    # Two of them have no room on a node together, whatever else is there.
    node = (await bench.client.call("GET", "/api/v1/nodes"))["items"][-1]
    cpu = 0.6 * int(node["status"]["allocatable"]["cpu"])
    selector = {"kubernetes.io/hostname": node["metadata"]["name"]}
    job = await bench.start("sh", "-c", _STAYS, params={"node_selector": selector}, resources=Resources(cpu=cpu))
    urgent["spec"]["nodeSelector"] = selector
    urgent["spec"]["containers"][0]["resources"] = {"requests": {"cpu": f"{round(cpu * 1000)}m"}}
    await bench.client.call("POST", "pods", urgent)
    result = await asyncio.wait_for(bench.executor.wait(job), 90)
    assert "PreemptionByScheduler" in lost(result)
    assert result.stdout == b"here\n"


async def test_an_image_that_does_not_come_says_why_and_can_be_cancelled(bench: Bench) -> None:
    request = bench.request("true", params={"image": "127.0.0.1:1/none:1"})
    running = asyncio.create_task(bench.executor.run(request))
    await bench.waits_for(request, "ImagePull")
    await bench.executor.cancel(request.execution_id)
    with pytest.raises(ExecutionCancelled):
        await running
    assert await bench.pods() == []


async def test_a_volume_by_claim_keeps_what_jobs_write(bench: Bench) -> None:
    name = f"claim-{uuid4().hex[:8]}"
    size = {"storage": "1Mi"}
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    place = {"capacity": size, "hostPath": {"path": f"/tmp/{name}", "type": "DirectoryOrCreate"}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {**spec, **place}}
    await bench.client.call("POST", "/api/v1/persistentvolumes", volume)
    wanted = {**spec, "volumeName": name, "resources": {"requests": size}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}
    await bench.client.call("POST", "persistentvolumeclaims", claim)
    try:
        where = {"params": {"node_selector": {"kubernetes.io/hostname": "node1"}}}
        writable = StorageVolume(type="volume", source=name, target="/data", read_only=False)
        result = await bench.run("sh", "-c", "echo kept >/data/file", inputs=[writable], **where)
        assert result.exit_code == 0, result
        plain = StorageVolume(type="volume", source=name, target="/data")
        script = "cat /data/file; rm /data/file 2>/dev/null || echo refused"
        result = await bench.run("sh", "-c", script, inputs=[plain], **where)
        assert result.stdout == b"kept\nrefused\n"
    finally:
        await bench.client.call("DELETE", f"persistentvolumeclaims/{name}")
        await bench.client.call("DELETE", f"/api/v1/persistentvolumes/{name}")
