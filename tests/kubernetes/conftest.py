"""An executor over the tests' cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dms_executor import ExecutionRequest, ExecutionResult, Executor, Policy, Settings
from dms_executor.kubernetes import KubernetesSpec
from dms_executor.kubernetes.client import Client
from dms_executor.kubernetes.spec import KubernetesSettings
from tests import cluster
from tests.kubernetes.apiserver import ApiServer, standing

_NUMBERS = count()


class Bench:
    """`client`: beside the engine's own, to look at the cluster, and to meddle."""

    def __init__(self, executor: Executor, client: Client, kubeconfig: str) -> None:
        self.executor = executor
        self.client = client
        self.kubeconfig = kubeconfig
        self.job = f"j{uuid4().hex}"
        """Of all its executions: others may run jobs in the same namespace."""

    def request(self, *argv: str, params: dict[str, Any] | None = None, **fields: Any) -> ExecutionRequest:
        """A job of its own id."""
        spec = KubernetesSpec(**{"image": cluster.IMAGE, "cmd": list(argv), **(params or {})}).build()
        return ExecutionRequest(job_id=self.job, execution_id=f"e{next(_NUMBERS)}", engine_spec=spec, **fields)

    async def run(self, *argv: str, params: dict[str, Any] | None = None, **fields: Any) -> ExecutionResult:
        """To its result."""
        return await self.executor.run(self.request(*argv, params=params, **fields))

    async def start(self, *argv: str, **fields: Any) -> str:
        """Starts a job, and gives its id."""
        request = self.request(*argv, **fields)
        await self.executor.start(request)
        return request.execution_id

    async def waits_for(self, request: ExecutionRequest, why: str) -> None:
        """Until it is told of one whose run has begun, as an event and by who looks."""
        async with asyncio.timeout(90):
            async for event in self.executor.events(after=0):
                if why in event.message:
                    break
        info = await self.executor.inspect(request.execution_id)
        assert (info.status, why in info.waits_for) == ("pending", True)

    async def pods(self) -> list[str]:
        """The names of its pods that there are."""
        found = await self.client.call("GET", "pods", labelSelector=f"dms-executor/job={self.job}")
        return [pod["metadata"]["name"] for pod in found["items"]]

    async def pod(self, execution_id: str) -> str:
        """The name of its pod."""
        return (await self.executor.inspect(execution_id)).engine_ids["pod"]


@asynccontextmanager
async def opened(
    state: Path, kubeconfig: str, *, clears: bool = True, admin: str | None = None, **more: Any
) -> AsyncIterator[Bench]:
    """All its executions are removed at the end, if it `clears`. `more`: of the engine's settings."""
    settings = Settings(engines={"kubernetes": {"kubeconfig": kubeconfig, **more}})
    client = Client(KubernetesSettings(kubeconfig=admin or kubeconfig))
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        yield Bench(executor, client, kubeconfig)
        for info in await executor.list() if clears else []:
            await executor.remove(info.request.execution_id, force=True)
    await client.close()


async def objects(bench: Bench) -> set[str]:
    """The ConfigMaps and Secrets of its namespace, whatever label they bear."""
    found = [(await bench.client.call("GET", kind))["items"] for kind in ("configmaps", "secrets")]
    return {item["metadata"]["name"] for items in found for item in items}


@pytest.fixture
async def bench(state_dir: Path) -> AsyncIterator[Bench]:
    """Over the cluster that the tests are given; skipped without one."""
    async with opened(state_dir, cluster.needed(), admin=cluster.ADMIN) as bench:
        before = await objects(bench)
        yield bench
        for info in await bench.executor.list():
            await bench.executor.remove(info.request.execution_id, force=True)
        assert await bench.pods() == []
        left = await objects(bench) - before
        assert all(name.startswith("dms-executor-init-") for name in left), left


@pytest.fixture
async def server(tmp_path: Path, rootfs: Path) -> AsyncIterator[ApiServer]:
    """What stands in for a cluster."""
    if os.geteuid() != 0:
        pytest.skip("its pods are pid namespaces, which take root")
    folder = tmp_path / "server"
    folder.mkdir()
    async with standing(folder, rootfs) as server:
        yield server


@pytest.fixture
async def alone(server: ApiServer, state_dir: Path) -> AsyncIterator[Bench]:
    """Over that."""
    async with opened(state_dir, str(server.kubeconfig)) as bench:
        yield bench


@pytest.fixture(params=["alone", "bench"], ids=["stand-in", "cluster"])
def either(request: pytest.FixtureRequest) -> Bench:
    """Over both, where there are both."""
    found: Bench = request.getfixturevalue(request.param)
    return found
