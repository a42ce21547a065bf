"""As much of a cluster as the engine asks for, on loopback: pods are processes of this host under the real init.

It stands in where no cluster is. It answers as https://kubernetes.io/docs/reference/kubernetes-api/ has it; the same
tests go to a real cluster; and it can do what one does seldom: end a watch, forget a version. A pod has
a root of its own, and no limits and no user.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from .clocks import stamped_since, turned
from .container import Container
from .node import live, now
from .rights import granted, needed_by

__all__ = ["ApiServer", "standing"]

_GONE = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}


class ApiServer:
    """Its user has the rights of the document in every namespace, and no others.

    `requests` counts what was asked, by method and kind.
    """

    def __init__(self, folder: Path, lower: Path) -> None:
        self.folder = folder
        self.lower = lower
        self.kubeconfig = folder / "kubeconfig"
        self.pods: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        """Of jobs, by pod."""
        self.inside: dict[str, dict[str, Container]] = {}
        """All of a pod's, by name."""
        self.maps: dict[str, dict[str, Any]] = {}
        self.claims: set[str] = set()
        """With their namespaces: `default/data`."""
        self.made = asyncio.Event()
        """A ConfigMap was."""
        self.requests: dict[str, int] = {}
        self.rights = granted()
        """What the asker may do: as the document's role says."""
        self.refuses: set[str] = set()
        """Headers of users that are none, or no more."""
        self.addresses: list[str] = []
        """What was asked, as an API server writes it into its audit log."""
        self.stumbles: dict[str, int] = {}
        """How many of such requests, named as in `requests`, are answered by 500, unheard."""
        self.tells = asyncio.Event()
        """Unset, nobody hears from a kubelet that a container has ended."""
        self.tells.set()
        self.creates = asyncio.Event()
        """Unset, its nodes say that they cannot make a container yet."""
        self.creates.set()
        self.gives = asyncio.Event()
        """Unset, nothing comes of a log, and whoever reads it waits: what stands before its node does not close it."""
        self.gives.set()
        self.throttles: dict[str, int] = {}
        """How many are turned away at first, as a busy server does."""
        self.stays: set[str] = set()
        """Pods whose node does not end them."""
        self.forgets = 0
        """Of how many pods the answer is lost that they were made."""
        self.loses = 0
        """Of how many commands the connection breaks after they were executed."""
        self.tears: list[int] = []
        """After how many bytes that came in the connection of the next command with an input breaks, each of one."""
        self.torn: Callable[[], None] = lambda: None
        """What happens meanwhile elsewhere."""
        self.skew = 0.0
        """Seconds that all its clocks, and those of its nodes, are ahead."""
        self.version = 1
        self.expired = 0
        """Watches from a version below this are told 410."""
        self.watches = asyncio.Event()
        """Unset, a watch does not begin."""
        self.watches.set()
        self._history: list[tuple[int, dict[str, Any]]] = []
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

    def kill(self, name: str) -> None:
        """All that runs in a pod."""
        for container in self.inside.get(name, {}).values():
            container.kill()

    async def close(self) -> None:
        for name in self.inside:
            self.kill(name)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- what it answers -----------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._counted])
        core = "/api/v1/namespaces/{namespace}"
        app.router.add_get("/version", self._version)
        app.router.add_get(f"{core}/configmaps", self._list_maps)
        app.router.add_post(f"{core}/configmaps", self._make_map)
        app.router.add_get(f"{core}/configmaps/{{name}}", self._get_map)
        app.router.add_get(f"{core}/persistentvolumeclaims/{{name}}", self._claim)
        app.router.add_get(f"{core}/pods", self._list)
        app.router.add_post(f"{core}/pods", self._make)
        app.router.add_get(f"{core}/pods/{{name}}", self._get)
        app.router.add_delete(f"{core}/pods/{{name}}", self._delete)
        app.router.add_get(f"{core}/pods/{{name}}/log", self._log)
        app.router.add_get(f"{core}/pods/{{name}}/exec", self._exec)
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        last = request.path.rpartition("/")[2]
        kind = "configmaps" if "/configmaps" in request.path else last if last in ("log", "exec") else "pods"
        what = f"{'WATCH' if 'watch' in request.query else request.method} {kind}"
        self.requests[what] = self.requests.get(what, 0) + 1
        needed = needed_by(request.method, request.path, watches="watch" in request.query)
        if needed is not None and needed not in self.rights:
            return _refused(403, "Forbidden")
        if self.stumbles.get(what, 0) > 0:
            self.stumbles[what] -= 1
            return _refused(500, "InternalError")
        if self.throttles.get(what, 0) > 0:
            self.throttles[what] -= 1
            return web.Response(status=429, headers={"Retry-After": "0"})
        self.addresses.append(request.path_qs)
        if request.headers.get("Authorization", "") in self.refuses:
            return _refused(401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.34.4"})

    async def _make_map(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"{request.match_info['namespace']}/{body['metadata']['name']}"
        if name in self.maps:
            return _refused(409, "AlreadyExists")
        self.maps[name] = body
        self.made.set()
        return web.json_response({}, status=201)

    async def _get_map(self, request: web.Request) -> web.Response:
        found = self.maps.get(f"{request.match_info['namespace']}/{request.match_info['name']}")
        return web.json_response(found) if found is not None else _refused(404, "NotFound")

    async def _list_maps(self, _request: web.Request) -> web.Response:
        return web.json_response({"items": [{"metadata": {"name": name.partition("/")[2]}} for name in self.maps]})

    async def _claim(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['namespace']}/{request.match_info['name']}"
        return web.json_response({}) if name in self.claims else _refused(404, "NotFound")

    async def _make(self, request: web.Request) -> web.Response:
        pod = await request.json()
        name = pod["metadata"]["name"]
        if name in self.pods:
            return _refused(409, "AlreadyExists")
        pod["metadata"] |= {"uid": f"uid-{name}", "namespace": request.match_info["namespace"]}
        pod["status"] = {"phase": "Pending"}
        self.pods[name] = pod
        self._changed(name, "ADDED")
        if self.forgets > 0 and request.transport is not None:
            self.forgets -= 1
            request.transport.abort()
        task = asyncio.create_task(live(self, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(pod, status=201)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        key, _, value = request.query.get("labelSelector", "").partition("=")

        def selected(pod: dict[str, Any]) -> bool:
            is_here = pod["metadata"]["namespace"] == request.match_info["namespace"]
            return is_here and (not key or pod["metadata"]["labels"].get(key) == value)

        if "watch" not in request.query:
            items = [pod for pod in self.pods.values() if selected(pod)]
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        answer = web.StreamResponse()
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        begin = int(request.query["resourceVersion"])
        await self.watches.wait()
        self._watches.add(queue)
        try:
            await answer.prepare(request)
            if begin < self.expired:
                await answer.write(web.json_response({"type": "ERROR", "object": _GONE}).body + b"\n")  # type: ignore[operator]
                return answer
            for version, event in self._history:  # what came between the list and this
                if version > begin:
                    queue.put_nowait(event)
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
        grace = int(request.query.get("gracePeriodSeconds", 30))
        inside = self.inside.get(name, {})
        if not inside or grace == 0 or pod["status"]["phase"] in ("Succeeded", "Failed"):
            self._remove(name)
            ending = 0
        else:
            pod["metadata"] |= {"deletionTimestamp": now(self.skew), "deletionGracePeriodSeconds": grace}
            self._changed(name, "MODIFIED")
            self.tells.set()
            ending = grace
        for container in inside.values() if name not in self.stays else ():
            container.end(ending)
        return web.json_response(pod)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        name, which = request.match_info["name"], request.query["container"]
        container = self.inside.get(name, {}).get(which)
        if container is None:
            return _refused(404 if name not in self.pods else 400, "BadRequest")
        answer = web.StreamResponse()
        await answer.prepare(request)
        with container.log.open("rb") as log, contextlib.suppress(ConnectionError):
            rest, begin = b"", request.query.get("sinceTime", "")
            if tail := int(request.query.get("tailLines", 0)):
                size = sum(len(line) for line in log.readlines()[-tail:])
                log.seek(-size, os.SEEK_END)
            while True:
                await self.gives.wait()
                container.written.clear()
                while piece := log.read(1 << 16):
                    *lines, rest = (rest + piece).split(b"\n")
                    lines = [turned(line, self.skew) for line in lines]
                    told = [line for line in lines if not begin or stamped_since(line, begin)]
                    await answer.write(b"".join(line + b"\n" for line in told))
                if "follow" not in request.query or not self._runs(name, which):
                    return answer
                await asyncio.wait([asyncio.create_task(container.written.wait())], timeout=0.05)
        return answer

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        name, which = request.match_info["name"], request.query["container"]
        container = self.inside.get(name, {}).get(which)
        if container is None or not self._runs(name, which):
            return _refused(404 if name not in self.pods else 500, "NotFound")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        has_input = "stdin" in request.query
        process = await container.execute(request.query.getall("command"), has_input=has_input)
        most = self.tears.pop(0) if self.tears and has_input else None
        feeding = asyncio.create_task(self._fed(process, socket, request, most))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_carried(process.stdout, 1, socket), _carried(process.stderr, 2, socket))
        code = await process.wait()
        code = code if code >= 0 else 128 - code
        feeding.cancel()
        await asyncio.wait([feeding])
        if self.loses > 0 and request.transport is not None:
            self.loses -= 1
            request.transport.abort()
            return socket
        status: dict[str, Any] = {"status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(b"\3" + (web.json_response(status).body or b""))  # type: ignore[operator]
            await socket.close()
        return socket

    async def _fed(
        self, process: asyncio.subprocess.Process, socket: web.WebSocketResponse, request: web.Request, most: int | None
    ) -> None:
        """What comes for a command's stdin, to its end: of the connection, whose other side went away in some way."""
        count = 0
        async for message in socket:
            count += len(message.data)
            if most is not None and count > most and request.transport is not None:
                self.torn()
                request.transport.abort()
                break
            if process.stdin is not None and message.type is WSMsgType.BINARY and message.data[:1] == b"\0":
                with contextlib.suppress(ConnectionError):
                    process.stdin.write(message.data[1:])
                    await process.stdin.drain()
        if process.stdin is not None:
            process.stdin.close()

    # -- its state -----------------------------------------------------------------------------------------------

    def _status(self, name: str, phase: str, states: dict[str, Any] | None = None, **rest: Any) -> None:
        before = [spec["name"] for spec in self.pods[name]["spec"].get("initContainers", [])]
        statuses = {"initContainerStatuses": [], "containerStatuses": []}
        for container, state in (states or {}).items():
            kind = "initContainerStatuses" if container in before else "containerStatuses"
            statuses[kind].append({"name": container, "state": state})
        self.pods[name]["status"] = {"phase": phase, **statuses, **rest}
        self._changed(name, "MODIFIED")

    def _runs(self, name: str, container: str) -> bool:
        """As far as it is known."""
        status = self.pods.get(name, {}).get("status", {})
        both = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return any(each["name"] == container and "running" in each["state"] for each in both)

    def _remove(self, name: str) -> None:
        self._changed(name, "DELETED")
        del self.pods[name]

    def _changed(self, name: str, kind: str) -> None:
        self.version += 1
        self.pods[name]["metadata"]["resourceVersion"] = str(self.version)
        pod = self.pods[name]
        event = {"type": kind, "object": copy.deepcopy(pod)}
        self._history.append((self.version, event))
        for queue in self._watches:
            queue.put_nowait(event)


async def _carried(stream: asyncio.StreamReader | None, number: int, socket: web.WebSocketResponse) -> None:
    while stream is not None and (piece := await stream.read(1 << 15)):
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([number]) + piece)


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": reason, "code": status}, status=status)


@asynccontextmanager
async def standing(folder: Path, lower: Path) -> AsyncIterator[ApiServer]:
    """With its kubeconfig. `lower`: the root that every image has."""
    server = ApiServer(folder, lower)
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
