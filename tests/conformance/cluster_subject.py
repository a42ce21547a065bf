"""The engine kubernetes as a subject of the conformance suite, over a cluster that exists."""

from __future__ import annotations

from typing import Any

from dms_executor import SpecConfig
from dms_executor.conformance import ShellSubject
from dms_executor.conformance.steps import Failure
from tests import cluster

__all__ = ["ClusterSubject"]


class ClusterSubject(ShellSubject):
    """Nothing of its jobs is on this host."""

    def failing(self, how: Failure) -> SpecConfig:
        """An image that no node has, and none looks for elsewhere, or no such command."""
        if how == "image":
            params = {"image": f"{self.image}-missing", "cmd": ["true"], "pull": "never"}
            return SpecConfig(type=self.engine, params=params)
        return super().failing(how)

    def slow(self) -> SpecConfig:
        """A pod that no node takes."""
        return self.command("true", node_selector={"dms-executor.test/nowhere": "true"})

    def leftovers(self, tokens: list[str]) -> list[str]:
        """Pods, and what they were given."""
        found: list[str] = []
        for kind in ("pods", "configmaps"):
            listed: dict[str, Any] = cluster.asked(lambda client, kind=kind: client.call("GET", kind))
            names = [str(item["metadata"]["name"]) for item in listed["items"]]
            found += [f"{kind} {name}" for name in names if any(token in name for token in tokens)]
        return found
