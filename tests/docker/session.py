"""An executor over the session's daemon, Docker's or Podman's, and what the tests send it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from dms_executor import ExecutionRequest, ExecutionResult, Executor, Policy, Settings
from dms_executor.docker import DockerSpec, PodmanSpec
from tests.daemon import Daemon
from tests.daemons import SESSIONS

__all__ = ["Bench", "opened"]

_NUMBERS = count()
_NETWORKS = {"docker": "bridge", "podman": "slirp4netns"}
_SPECS = {"docker": DockerSpec, "podman": PodmanSpec}


class Bench:
    """`image`: the session's own, of busybox, in that `daemon`; `network`: one whose ports are published."""

    def __init__(self, executor: Executor, image: str, engine: str) -> None:
        self.executor = executor
        self.image = image
        self.engine = engine
        self.network = _NETWORKS[engine]
        self.daemon: Daemon = SESSIONS[engine].daemon()

    def request(self, *argv: str, params: dict[str, Any] | None = None, **fields: Any) -> ExecutionRequest:
        """A job of its own id."""
        spec = _SPECS[self.engine](cmd=list(argv), **{"image": self.image, **(params or {})}).build()
        return ExecutionRequest(job_id="j", execution_id=f"e{next(_NUMBERS)}", engine_spec=spec, **fields)

    async def run(self, *argv: str, params: dict[str, Any] | None = None, **fields: Any) -> ExecutionResult:
        """To its result."""
        return await self.executor.run(self.request(*argv, params=params, **fields))

    async def sh(self, script: str, params: dict[str, Any] | None = None, **fields: Any) -> str:
        """What the script says. Fails where it does."""
        result = await self.run("sh", "-c", script, params=params, **fields)
        assert result.exit_code == 0, result
        return result.stdout.decode()

    async def inspected(self, params: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """What the daemon was told of a job's container, as it says itself."""
        request = self.request("sleep", "1000", params=params, **fields)
        await self.executor.start(request)
        container = (await self.executor.inspect(request.execution_id)).engine_ids["container"]
        (told,) = json.loads(self.daemon.client("inspect", container).stdout)
        await self.executor.cancel(request.execution_id, grace=0)
        return dict(told)

    async def removed(self) -> None:
        """All executions; a result need not wait for its container's removal, this does."""
        for info in await self.executor.list():
            await self.executor.remove(info.request.execution_id, force=True)


@asynccontextmanager
async def opened(
    state: Path, rootfs: Path, policy: Policy | None = None, engine: str = "docker", **settings: Any
) -> AsyncIterator[Bench]:
    """`settings`: the engine's own. The test is skipped where its daemon cannot be had."""
    session = SESSIONS[engine]
    session.needed()
    image = session.with_image(rootfs)
    chosen = Settings(engines={engine: {"socket": str(session.daemon().socket), **settings}})
    async with Executor.open(state, policy=policy or Policy.trusted(), settings=chosen) as executor:
        bench = Bench(executor, image, engine)
        yield bench
        await bench.removed()
