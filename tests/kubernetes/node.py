"""What a kubelet does with a pod, in the stand-in: its containers one after the other, then side by side."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dms_executor.kubernetes.names import CONTAINER

from .clocks import turned
from .container import Container

if TYPE_CHECKING:
    from .apiserver import ApiServer

__all__ = ["live", "now"]


def now(skew: float) -> str:
    """As the cluster writes a time."""
    return f"{datetime.now(UTC) + timedelta(seconds=skew):%Y-%m-%dT%H:%M:%SZ}"


async def live(server: ApiServer, name: str) -> None:
    """From its place on a node to its end."""
    pod = server.pods[name]
    spec = pod["spec"]["containers"][0]
    if pod["spec"]["nodeSelector"]:
        reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        server._status(name, "Pending", conditions=[reason])
        return
    pod["spec"]["nodeName"] = "here"
    if spec["imagePullPolicy"] == "Never":
        reason = {"reason": "ErrImageNeverPull", "message": "not present with pull policy of Never"}
        server._status(name, "Pending", {CONTAINER: {"waiting": reason}})
        return
    (programs,) = [each["configMap"]["name"] for each in pod["spec"]["volumes"] if each["name"] == "init"]
    while not any(key.endswith(f"/{programs}") for key in server.maps):
        server._status(name, "Pending", {CONTAINER: {"waiting": {"reason": "ContainerCreating"}}})
        server.made.clear()
        await server.made.wait()
    if not server.creates.is_set():
        late = {"reason": "CreateContainerError", "message": "context deadline exceeded"}
        server._status(name, "Pending", {CONTAINER: {"waiting": late}})
        await server.creates.wait()
    await _Kubelet(server, name).run()


class _Kubelet:
    def __init__(self, server: ApiServer, name: str) -> None:
        self.server = server
        self.name = name
        self.pod = server.pods[name]
        self.folder = Path(tempfile.mkdtemp(dir=server.folder))
        self.states: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        volumes = {
            each["name"]: self.folder / each["name"] for each in self.pod["spec"]["volumes"] if "emptyDir" in each
        }
        for path in volumes.values():
            path.mkdir()
            path.chmod(0o777)
        for spec in self.pod["spec"].get("initContainers", []):
            container = await self._started(spec, volumes)
            self._tell("Pending")
            code = await container.run()
            self._ended(spec["name"], container, code)
            if self._is_deleted():  # nothing more of it is begun
                self.server._remove(self.name)
                return
            if code:
                self._tell("Failed")
                return
        specs = self.pod["spec"]["containers"]
        started = [(spec["name"], await self._started(spec, volumes)) for spec in specs]
        self._tell("Running")
        codes = await asyncio.gather(*(self._run(*each) for each in started))
        if self._is_deleted():
            self.server._remove(self.name)
        assert codes

    def _is_deleted(self) -> bool:
        """Whether it is to go, and is still there."""
        return self.server.pods.get(self.name) is self.pod and "deletionTimestamp" in self.pod["metadata"]

    async def _started(self, spec: dict[str, Any], volumes: dict[str, Path]) -> Container:
        container = Container(Path(tempfile.mkdtemp(dir=self.folder)), self.server.lower)
        self.server.inside.setdefault(self.name, {})[spec["name"]] = container
        if spec["name"] == CONTAINER:
            self.server.containers[self.name] = container
        await container.start(spec, volumes)
        self.states[spec["name"]] = {"running": {"startedAt": now(self.server.skew)}}
        return container

    async def _run(self, name: str, container: Container) -> int:
        code = await container.run()
        await self.server.tells.wait()
        self._ended(name, container, code)
        ends = [self.states[spec["name"]].get("terminated") for spec in self.pod["spec"]["containers"]]
        over = "Failed" if any(end and end["exitCode"] for end in ends) else "Succeeded"
        self._tell(over if all(ends) else "Running")
        container.written.set()
        return code

    def _ended(self, name: str, container: Container, code: int) -> None:
        skew = self.server.skew
        report = container.report.read_bytes()[:4096].split(b"\n")
        self.states[name] = {
            "terminated": {
                "exitCode": code,
                "reason": "Completed" if code == 0 else "Error",
                "finishedAt": now(skew),
                "message": b"\n".join(turned(line, skew) for line in report).decode(),
            }
        }

    def _tell(self, phase: str) -> None:
        if self.server.pods.get(self.name) is self.pod:
            self.server._status(self.name, phase, dict(self.states))
