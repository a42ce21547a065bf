"""The namespaces that an executor has pods in: each has its own watch and its own copy of the init.

Which one a job's pod is made in is the request's to say where the owner allows it, and stands in its params; so it is
known of every execution, in every process, without asking the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..engine import Execution
from ..errors import StartFailed
from ..supervisor.binary import init_path, pod_path
from .body import init_map
from .client import ApiError, Client
from .pods import Pods

if TYPE_CHECKING:
    from .spec import KubernetesSettings

__all__ = ["Site", "Sites"]


class Site:
    """One namespace. `client` asks in it, `pods` follows what is there."""

    def __init__(self, client: Client, executor_id: str) -> None:
        self.client = client
        self.pods = Pods(client, executor_id)
        self._init = ""

    async def init_map(self) -> str:
        """The name of the ConfigMap with our programs, made once for each release of them and namespace; whoever comes
        second finds it. Raises `StartFailed`.
        """
        if not self._init:
            body = await asyncio.to_thread(lambda: init_map(init_path(), pod_path()))
            try:
                await self.client.call("POST", "configmaps", body)
            except ApiError as error:
                if error.status != 409:
                    raise StartFailed(error.message, mend="Look at the executor's rights in the cluster") from error
            self._init = str(body["metadata"]["name"])
        return self._init


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
