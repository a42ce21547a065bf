"""As much of a cluster as the engine asks for, on loopback: pods are processes of this host under the real init.

It stands in where no cluster is. It answers as https://kubernetes.io/docs/reference/kubernetes-api/ has it, which was
not compared with a cluster's answers yet; and it can do what one does seldom: end a watch, forget a version. A pod has
no root, no limits and no user of its own here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from dms_executor.kubernetes.names import INIT, REPORT, ROOM
from dms_executor.supervisor.binary import init_path

from .rights import granted, needed_by

__all__ = ["ApiServer", "standing"]

_INSIDE = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
_GONE = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}


class _Container:
    """One pod's process, and the files that a node has of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.report, self.room = folder / "log", folder / "report", folder / "room"
        for path in (self.log, self.report):
            path.touch()
        self.room.mkdir()
        self.written = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.first = 0

    def places(self, words: list[str]) -> list[str]:
        places = {INIT: str(init_path()), REPORT: str(self.report), ROOM: str(self.room)}
        return [places.get(word, word.replace("$$", "$")) for word in words]

    async def start(self, spec: dict[str, Any]) -> None:
        env = {"PATH": os.environ["PATH"], **{e["name"]: e["value"].replace("$$", "$") for e in spec["env"]}}
        self.process = await asyncio.create_subprocess_exec(
            *_INSIDE,
            *self.places(spec["command"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=env,
        )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not children.read_text().strip():
            await asyncio.sleep(0.005)
        self.first = int(children.read_text().split()[0])

    async def run(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.log.open("ab") as log:
            while piece := await self.process.stdout.read(1 << 16):
                log.write(piece)
                log.flush()
                self.written.set()
        code = await self.process.wait()
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


class ApiServer:
    """One namespace's, whose user has the rights of the document and no others.

    `requests` counts what was asked, by method and kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.pods: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, _Container] = {}
        self.maps: set[str] = set()
        self.requests: dict[str, int] = {}
        self.rights = granted()
        """What the asker may do: as the document's role says."""
        self.version = 1
        self.expired = 0
        """Watches from a version below this are told 410."""
        self._watches: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what a test does to it ----------------------------------------------------------------------------------

    def end_watches(self) -> None:
        """As a proxy does that takes silence for death."""
        for queue in self._watches:
            queue.put_nowait(None)

    def forget(self) -> None:
        """Its history is compacted: no watch goes on from what was."""
        self.expired = self.version + 1
        self.end_watches()

    async def close(self) -> None:
        for container in self.containers.values():
            container.kill()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- what it answers -----------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._counted])
        core = "/api/v1/namespaces/{namespace}"
        app.router.add_get("/version", self._version)
        app.router.add_post(f"{core}/configmaps", self._make_map)
        app.router.add_get(f"{core}/pods", self._list)
        app.router.add_post(f"{core}/pods", self._make)
        app.router.add_get(f"{core}/pods/{{name}}", self._get)
        app.router.add_delete(f"{core}/pods/{{name}}", self._delete)
        app.router.add_get(f"{core}/pods/{{name}}/log", self._log)
        app.router.add_get(f"{core}/pods/{{name}}/exec", self._exec)
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        kind = request.path.rpartition("/")[2] if "/log" in request.path or "/exec" in request.path else "pods"
        what = f"{'WATCH' if 'watch' in request.query else request.method} {kind}"
        self.requests[what] = self.requests.get(what, 0) + 1
        needed = needed_by(request.method, request.path, watches="watch" in request.query)
        if needed is not None and needed not in self.rights:
            return _refused(403, "Forbidden")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.34.4"})

    async def _make_map(self, request: web.Request) -> web.Response:
        name = (await request.json())["metadata"]["name"]
        if name in self.maps:
            return _refused(409, "AlreadyExists")
        self.maps.add(name)
        return web.json_response({}, status=201)

    async def _make(self, request: web.Request) -> web.Response:
        pod = await request.json()
        name = pod["metadata"]["name"]
        if name in self.pods:
            return _refused(409, "AlreadyExists")
        pod["metadata"]["uid"] = f"uid-{name}"
        pod["status"] = {"phase": "Pending"}
        self.pods[name] = pod
        self._changed(name, "ADDED")
        task = asyncio.create_task(self._live(name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(pod, status=201)

    async def _live(self, name: str) -> None:
        pod = self.pods[name]
        spec = pod["spec"]["containers"][0]
        if pod["spec"]["nodeSelector"]:
            reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
            self._status(name, "Pending", conditions=[reason])
            return
        pod["spec"]["nodeName"] = "here"
        if spec["imagePullPolicy"] == "Never":
            reason = {"reason": "ErrImageNeverPull", "message": "not present with pull policy of Never"}
            self._status(name, "Pending", {"waiting": reason})
            return
        container = self.containers[name] = _Container(Path(tempfile.mkdtemp(dir=self.folder)))
        await container.start(spec)
        self._status(name, "Running", {"running": {"startedAt": "2026-11-28T08:00:00Z"}})
        code = await container.run()
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "finishedAt": "2026-11-28T08:00:01Z",
        }
        ended["message"] = container.report.read_text()[:4096]
        self._status(name, "Succeeded" if code == 0 else "Failed", {"terminated": ended})
        container.written.set()
        if "deletionTimestamp" in pod["metadata"]:
            self._remove(name)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        key, _, value = request.query.get("labelSelector", "").partition("=")

        def selected(pod: dict[str, Any]) -> bool:
            return not key or pod["metadata"]["labels"].get(key) == value

        if "watch" not in request.query:
            items = [pod for pod in self.pods.values() if selected(pod)]
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        answer = web.StreamResponse()
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        begin = int(request.query["resourceVersion"])
        self._watches.add(queue)
        try:
            await answer.prepare(request)
            if begin < self.expired:
                await answer.write(web.json_response({"type": "ERROR", "object": _GONE}).body + b"\n")  # type: ignore[operator]
                return answer
            for pod in self.pods.values():  # what came between the list and this
                if int(pod["metadata"]["resourceVersion"]) > begin:
                    queue.put_nowait({"type": "MODIFIED", "object": pod})
            while (event := await queue.get()) is not None:
                if selected(event["object"]):
                    await answer.write(web.json_response(event).body + b"\n")  # type: ignore[operator]
        except ConnectionError:
            pass
        finally:
            self._watches.discard(queue)
        return answer

    async def _get(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod is not None else _refused(404, "NotFound")

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        pod = self.pods.get(name)
        if pod is None:
            return _refused(404, "NotFound")
        container = self.containers.get(name)
        if container is None or pod["status"]["phase"] in ("Succeeded", "Failed"):
            self._remove(name)
        else:
            pod["metadata"]["deletionTimestamp"] = "2026-11-28T08:00:00Z"
            self._changed(name, "MODIFIED")
            container.kill()
        return web.json_response(pod)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        container = self.containers.get(name)
        if container is None:
            return _refused(404 if name not in self.pods else 400, "BadRequest")
        answer = web.StreamResponse()
        await answer.prepare(request)
        with container.log.open("rb") as log, contextlib.suppress(ConnectionError):
            while True:
                container.written.clear()
                while piece := log.read(1 << 16):
                    await answer.write(piece)
                has_ended = self.pods.get(name, {"status": {"phase": "Failed"}})["status"]["phase"] != "Running"
                if "follow" not in request.query or has_ended:
                    return answer
                await asyncio.wait([asyncio.create_task(container.written.wait())], timeout=0.05)
        return answer

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        container = self.containers.get(name)
        if container is None or self.pods[name]["status"]["phase"] != "Running":
            return _refused(404 if name not in self.pods else 500, "NotFound")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        words = container.places(request.query.getall("command"))
        has_input = "stdin" in request.query
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={container.first}", "--pid", "--", *words,
            stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if has_input and process.stdin is not None:
            data = b""
            while not data.endswith(struct.pack("<II", 0, 0)):
                message = await socket.receive()
                if message.type is not WSMsgType.BINARY:
                    break
                data += message.data[1:]
            with contextlib.suppress(ConnectionError):
                process.stdin.write(data)
                await process.stdin.drain()
        code = await process.wait()
        code = code if code >= 0 else 128 - code
        status: dict[str, Any] = {"status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(b"\3" + (web.json_response(status).body or b""))  # type: ignore[operator]
            await socket.close()
        return socket

    # -- its state -----------------------------------------------------------------------------------------------

    def _status(self, name: str, phase: str, state: dict[str, Any] | None = None, **rest: Any) -> None:
        statuses = [{"state": state}] if state is not None else []
        self.pods[name]["status"] = {"phase": phase, "containerStatuses": statuses, **rest}
        self._changed(name, "MODIFIED")

    def _remove(self, name: str) -> None:
        self._changed(name, "DELETED")
        del self.pods[name]

    def _changed(self, name: str, kind: str) -> None:
        self.version += 1
        self.pods[name]["metadata"]["resourceVersion"] = str(self.version)
        for queue in self._watches:
            queue.put_nowait({"type": kind, "object": {**self.pods[name]}})


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": reason, "code": status}, status=status)


@asynccontextmanager
async def standing(folder: Path) -> AsyncIterator[ApiServer]:
    """With its kubeconfig."""
    server = ApiServer(folder)
    runner = web.AppRunner(server.application(), shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.kubeconfig.write_text(
        f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\n"
        "current-context: x\n"
    )
    try:
        yield server
    finally:
        await server.close()
        await runner.cleanup()
