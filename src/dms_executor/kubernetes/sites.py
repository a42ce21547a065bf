"""The namespaces that an executor has pods in: each has its own watch and its own copy of the init.

Which one a job's pod is made in is the request's to say where the owner allows it, and stands in its params; so it is
known of every execution, in every process, without asking the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..engine import Execution
from ..errors import StartFailed
from ..supervisor.binary import init_path, pod_path
from .body import init_map
from .client import ApiError, Client
from .pods import Pods

if TYPE_CHECKING:
    from .spec import KubernetesSettings

__all__ = ["Site", "Sites"]

_TRIES = 3
_RENEWED = 60.0  # seconds between two looks whether our programs are still there


class Site:
    """One namespace. `client` asks in it, `pods` follows what is there."""

    def __init__(self, client: Client, executor_id: str) -> None:
        self.client = client
        self.pods = Pods(client, executor_id)
        self._init = ""
        self._making = asyncio.Lock()
        self._renewed = -_RENEWED

    async def init_map(self) -> str:
        """The name of the ConfigMap with our programs, made once for each release of them and namespace; whoever comes
        second finds it. Raises `StartFailed`, `EngineUnreachable`.
        """
        async with self._making:
            if not self._init:
                self._init = await self._made()
        return self._init

    async def renew(self) -> None:
        """Where a node seems to lack what a pod is made of: somebody may have taken the ConfigMap away. Seldom.

        Raises `StartFailed`, `EngineUnreachable`.
        """
        now = asyncio.get_running_loop().time()
        if now - self._renewed >= _RENEWED:
            self._renewed = now
            async with self._making:
                await self._made()

    async def _made(self) -> str:
        body = await asyncio.to_thread(lambda: init_map(init_path(), pod_path()))
        name = str(body["metadata"]["name"])
        try:
            for _ in range(_TRIES):
                if await self.client.create("configmaps", body) is not None or await self._is_ours(name, body):
                    return name
        except ApiError as error:
            raise StartFailed(error.message, mend="Look at the executor's rights in the cluster") from error
        raise StartFailed(f"the ConfigMap {name} comes and goes", mend="Look who takes it away")

    async def _is_ours(self, name: str, body: dict[str, Any]) -> bool:
        """False: it is gone. What it holds is executed in every pod: it is read, whoever made it."""
        try:
            found = await self.client.call("GET", f"configmaps/{name}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        if found.get("binaryData") != body["binaryData"] or found.get("immutable") is not True:
            raise StartFailed(f"the ConfigMap {name} holds something else than our programs", mend="Delete it")
        return True


class Sites:
    """Those of one executor; `close` them in their loop."""

    def __init__(self, settings: KubernetesSettings, executor_id: str) -> None:
        self._client = Client(settings)
        self._allowed = settings.allowed.namespaces
        self._executor_id = executor_id
        self._sites: dict[str | None, Site] = {}

    def named(self, namespace: str | None) -> Site:
        """None: the one of the settings, or of the kubeconfig."""
        if namespace not in self._sites:
            self._sites[namespace] = Site(self._client.within(namespace), self._executor_id)
        return self._sites[namespace]

    def of(self, x: Execution) -> Site:
        """Where its pod is."""
        return self.named(x.request.engine_spec.params.get("namespace"))

    async def all(self) -> Iterable[Site]:
        """Every one that a pod of ours may be in, each once. Raises `EngineUnavailable`."""
        own = await self._client.namespace()
        return [self.named(None), *(self.named(name) for name in dict.fromkeys(self._allowed) if name != own)]

    async def close(self) -> None:
        """Idempotent."""
        for site in self._sites.values():
            await site.pods.close()
        await self._client.close()
