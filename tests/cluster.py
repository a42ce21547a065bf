"""The cluster that tests run pods in: one that exists, named by a kubeconfig in the environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from dms_executor.kubernetes.client import Client
from dms_executor.kubernetes.spec import KubernetesSettings

__all__ = ["ADMIN", "IMAGE", "KUBECONFIG", "asked", "needed"]

KUBECONFIG = os.environ.get("DMS_EXECUTOR_KUBECONFIG", "")
ADMIN = os.environ.get("DMS_EXECUTOR_CLUSTER_ADMIN", "") or KUBECONFIG
"""Of a user that may look at everything, and meddle, where the engine's own has no more rights than it needs."""
IMAGE = os.environ.get("DMS_EXECUTOR_KUBERNETES_IMAGE", "localhost/busybox:1")
"""With a shell as busybox gives it; the nodes have it, or pull it."""

T = TypeVar("T")


def needed() -> str:
    """The kubeconfig. The test is skipped where there is none."""
    if not KUBECONFIG:
        pytest.skip("DMS_EXECUTOR_KUBECONFIG names no kubeconfig of a cluster to run pods in")
    return KUBECONFIG


def asked(what: Callable[[Client], Awaitable[T]]) -> T:
    """What the cluster says, beside the engine that is tested. Blocks, and runs a loop of its own."""

    async def ask() -> T:
        client = Client(KubernetesSettings(kubeconfig=ADMIN))
        try:
            return await what(client)
        finally:
            await client.close()

    return asyncio.run(ask())


async def pods(client: Client, **query: str) -> list[dict[str, Any]]:
    """All of the namespace."""
    return list((await client.call("GET", "pods", **query))["items"])
