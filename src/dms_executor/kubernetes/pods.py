"""Our pods as the cluster sees them: one list and one watch for all that this executor has there.

A watch breaks (an API server restarts, a proxy closes what is silent, 410 for one that is too old): it begins again
with a list, so that nothing is missed. https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from ..errors import EngineUnreachable, ExecutorError
from .client import RIGHTS, ApiError, Client
from .names import EXECUTOR, pod_name
from .view import Pod, seen

__all__ = ["Pods", "Refused"]

_OPENING = 15.0
_TELLING = 10.0  # seconds in which a kubelet tells that a container has ended
_LENGTH = 300  # seconds after which the server ends a watch; the next begins where it stopped
_SILENCE = _LENGTH + 30.0
_SHORT = 1.0  # seconds; a watch that is over sooner is no watch
_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
_log = logging.getLogger("dms_executor.kubernetes")


class Refused(EngineUnreachable):
    """The cluster gives us no right to look: no waiting mends that."""


class Pods:
    """One executor's. Opened at the first need; `close` it in its loop."""

    def __init__(self, client: Client, executor_id: str) -> None:
        self._client = client
        self._executor_id = executor_id
        self._selector = f"{EXECUTOR}={executor_id}"
        self._pods: dict[str, Pod] = {}
        self._removed: dict[str, Pod] = {}
        self._ears: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._failure: ExecutorError | None = None

    async def changes(self, token: str) -> AsyncGenerator[Pod | None, None]:
        """The pod as it is now (None: there is none), then after each change. Raises `EngineUnreachable`."""
        ear = asyncio.Event()
        self._ears.setdefault(token, set()).add(ear)
        try:
            await self.ready()
            while True:
                ear.clear()
                if self._failure is not None:
                    kind = Refused if isinstance(self._failure, Refused) else EngineUnreachable
                    raise kind(self._failure.message, mend=self._failure.mend)
                yield self._pods.get(token)
                await ear.wait()
        finally:
            self._ears[token].discard(ear)
            if not self._ears[token]:
                del self._ears[token]
                self._removed.pop(token, None)

    async def ends_soon(self, token: str) -> bool:
        """Of one in which nothing can be executed: a kubelet tells of an end some time after it. Raises
        `EngineUnreachable`.
        """
        pod = await self.now(token)
        if pod is None or pod.has_ended:
            return True
        try:
            async with asyncio.timeout(_TELLING), aclosing(self.changes(token)) as changes:
                async for pod in changes:
                    if pod is None or pod.has_ended:
                        return True
        except TimeoutError:
            pass
        return False

    def learn(self, pod: Pod) -> None:
        """One that was just made, before the watch tells of it."""
        self._pods.setdefault(pod.token, pod)

    def known(self, token: str) -> Pod | None:
        """As the watch had it last."""
        return self._pods.get(token)

    def removed(self, token: str) -> Pod | None:
        """What was last seen of one that is gone, while its `changes` are followed: the cluster's words."""
        return self._removed.get(token)

    async def now(self, token: str) -> Pod | None:
        """Asked for at this moment, not remembered. Raises `EngineUnreachable`."""
        try:
            pod = seen(await self._client.call("GET", f"pods/{pod_name(token)}"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise EngineUnreachable(error.message, mend="Look at its API server") from error
        return pod if pod.metadata.labels.get(EXECUTOR) == self._executor_id else None

    async def listed(self) -> Mapping[str, Pod]:
        """All of them, asked for at this moment."""
        pods, _ = await self._list()
        return pods

    async def ready(self) -> None:
        """Returns once the list is there, and followed. Raises `EngineUnreachable`."""
        if self._task is None or self._task.done():
            self._failure = None
            self._opened = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._follow(self._opened), name="kubernetes pods")
        if self._opened is not None and not self._opened.done():
            try:
                await asyncio.wait_for(asyncio.shield(self._opened), _OPENING)
            except TimeoutError as error:
                raise EngineUnreachable("the cluster lists no pods", mend="Look at its API server") from error
        elif self._opened is not None:
            self._opened.result()

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, opened: asyncio.Future[None]) -> None:
        loop, short = asyncio.get_running_loop(), 0
        try:
            while True:
                version = await self._relist()
                if not opened.done():
                    opened.set_result(None)
                began = loop.time()
                await self._watch(version)
                short = short + 1 if loop.time() - began < _SHORT else 0
                if short:  # one that ends at once would do so again
                    await asyncio.sleep(min(_PAUSE * 2 ** min(short, 10), _LONGEST_PAUSE))
        except Exception as error:  # noqa: BLE001, whoever waits has to hear of it, whatever it is
            if not isinstance(error, ExecutorError):
                _log.exception("watch")
                error = EngineUnreachable(f"the cluster cannot be watched: {error}")
            _log.warning("watch: %s", error)
            self._failure = error
            if not opened.done():
                opened.set_exception(error)
                opened.exception()  # who waited has it; perhaps nobody did
        finally:
            if not opened.done():
                opened.cancel()
            self._wake(*self._ears)

    async def _relist(self) -> str:
        before = set(self._pods)
        pods, version = await self._list()
        for token in set(self._pods) - set(pods):
            # One that was made while the list was on its way is not in it, unless it was gone again before.
            if token in before or _is_older(self._pods[token].metadata.resource_version, version):
                self._remove(token, self._pods[token])
        self._pods.update(pods)
        self._wake(*self._ears)
        return version

    async def _list(self) -> tuple[dict[str, Pod], str]:
        try:
            raw = await self._client.call("GET", "pods", labelSelector=self._selector)
        except ApiError as error:
            if error.lacks_rights:
                raise Refused(error.message, mend=RIGHTS) from error
            raise EngineUnreachable(error.message, mend="Look at its API server") from error
        pods = [seen(item) for item in raw.get("items") or []]
        return {pod.token: pod for pod in pods}, str(raw["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        """Returns where a list has to come first."""
        while True:
            query = {
                "watch": "1",
                "labelSelector": self._selector,
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(_LENGTH),
            }
            rest, began = b"", asyncio.get_running_loop().time()
            try:
                async with self._client.stream("GET", "pods", silence=_SILENCE, query=query) as pieces:
                    async for piece in pieces:
                        *lines, rest = (rest + piece).split(b"\n")
                        for line in lines:
                            event = msgspec.json.decode(line)
                            if event["type"] == "ERROR":
                                return
                            version = self._take(event["type"], event["object"])
            except (ApiError, EngineUnreachable) as error:
                if isinstance(error, ApiError) and error.lacks_rights:
                    raise Refused(error.message, mend=RIGHTS) from error
                _log.info("watch: %s; listed anew", error)
                return
            if asyncio.get_running_loop().time() - began < _SHORT:
                return

    def _take(self, kind: str, raw: dict[str, Any]) -> str:
        version = str(raw["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            return version
        pod = seen(raw)
        if kind == "DELETED":
            self._remove(pod.token, pod)
        else:
            self._pods[pod.token] = pod
        self._wake(pod.token)
        return version

    def _remove(self, token: str, last: Pod) -> None:
        self._pods.pop(token, None)
        if token in self._ears:
            self._removed[token] = msgspec.structs.replace(last, was_removed=True)

    def _wake(self, *tokens: str) -> None:
        for token in tokens:
            for ear in self._ears.get(token, ()):
                ear.set()


def _is_older(one: str, other: str) -> bool:
    """https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions"""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)
