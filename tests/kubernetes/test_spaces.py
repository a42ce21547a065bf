"""Jobs in another namespace, whose pods are held to the cluster's strictest standard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from dms_executor.errors import StartFailed
from dms_executor.kubernetes.client import ApiError
from dms_executor.types import StorageVolume
from tests import cluster

from .conftest import Bench, opened

_LEVEL = "pod-security.kubernetes.io/enforce"


@pytest.fixture
async def strict(bench: Bench) -> AsyncIterator[str]:
    """A namespace that admits pods of the level `restricted` alone."""
    name = f"strict-{uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {_LEVEL: "restricted"}}}
    await bench.client.call("POST", "/api/v1/namespaces", body)
    async with asyncio.timeout(30):
        while True:  # without it no pod is admitted
            try:
                await bench.client.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")
                break
            except ApiError:
                await asyncio.sleep(0.1)
    yield name
    await bench.client.call("DELETE", f"/api/v1/namespaces/{name}")


async def test_a_job_of_an_ordinary_user_is_of_the_level_restricted(strict: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("given")
    async with opened(tmp_path / "other", cluster.ADMIN, allowed={"namespaces": [strict]}) as bench:
        result = await bench.run(
            *("sh", "-c", "cat /in >/out/file; id -u; exit 3"),
            params={"namespace": strict, "user": "1000:1000"},
            inputs=[StorageVolume(source=str(tmp_path / "in"), target="/in")],
            outputs=[StorageVolume(source=str(tmp_path / "out"), target="/out")],
        )
        assert (result.exit_code, result.stdout) == (3, b"1000\n"), result
        assert (tmp_path / "out" / "file").read_text() == "given"
        with pytest.raises(StartFailed, match="runAsNonRoot"):
            await bench.run("true", params={"namespace": strict})
        await bench.executor.remove(result.execution_id)
        assert (await bench.client.call("GET", f"/api/v1/namespaces/{strict}/pods"))["items"] == []
