"""The Kubernetes API over HTTP: one function a kind of call, foreign errors mapped here alone.

aiohttp is beneath it, and no client made for Kubernetes (docs/decisions.md): seven calls and plain JSON are all that is
needed. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import EngineUnavailable, EngineUnreachable, ExecutorError
from .credentials import Tickets
from .kubeconfig import Access, find_access
from .sockets import kept_alive
from .spec import KubernetesSettings
from .wire import PROTOCOLS, Wire

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AGAIN", "RIGHTS", "ApiError", "Client"]

AGAIN = (0.2, 1.0, 3.0, 10.0)
"""Seconds between two tries where the cluster does not answer."""

RIGHTS = "Look at the executor's rights in the cluster"
"""What mends a call that lacks them."""

_DEADLINE = 30.0  # seconds for a call that the cluster answers at once unless it is busy
_CONNECT = 4.0
_EXEC = 60.0
_HEARTBEAT = 30.0
_PIECE = 1 << 15
_WORDS = 1 << 16  # bytes of a refusal that are looked at
_log = logging.getLogger("dms_executor.kubernetes")


class ApiError(ExecutorError):
    """The cluster refused a call. `status`: HTTP's; `reason`: its own word."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.status = status
        self.reason = reason

    @property
    def lacks_rights(self) -> bool:
        """Whether trying again mends nothing."""
        return self.status in (401, 403)


class Client:
    """One cluster's, in one namespace. `close` it in its loop. Connects at the first call."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._base = self
        self._namespace: str | None = None
        self._access: Access | None = None
        self._tickets: Tickets | None = None
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def within(self, namespace: str | None) -> Client:
        """The same connections, for another of the cluster's namespaces; the first alone is closed."""
        other = Client(self._settings)
        other._base, other._namespace = self._base, namespace
        return other

    async def namespace(self) -> str:
        """Where the pods are. Raises `EngineUnavailable`."""
        return self._namespace or (await self._found()).namespace

    async def cluster(self) -> str:
        """Which cluster's namespace that is, by its server's address. Raises `EngineUnavailable`."""
        return f"{(await self._found()).server} {await self.namespace()}"

    async def call(
        self, method: str, path: str, body: Any = None, *, deadline: float = _DEADLINE, **query: str
    ) -> dict[str, Any]:
        """Any call whose answer is small; `path` of the whole API, or relative to the namespace.

        Raises `ApiError`, `EngineUnreachable`, `EngineUnavailable`.
        """
        async with self.stream(method, path, body, deadline=deadline, query=query) as pieces:
            text = b"".join([piece async for piece in pieces])
        return dict(msgspec.json.decode(text)) if text.strip() else {}

    async def create(self, kind: str, body: Any) -> dict[str, Any] | None:
        """None: one of its name is there, be it of a try whose answer was lost.

        A creation that its asker leaves is waited for all the same: else it would come after its own undoing.

        Raises `ApiError`, `EngineUnreachable`, `EngineUnavailable`.
        """
        for pause in (*AGAIN, None):
            posting = asyncio.ensure_future(self.call("POST", kind, body))
            try:
                return await asyncio.shield(posting)
            except asyncio.CancelledError:
                await asyncio.wait([posting])
                if not posting.cancelled():
                    posting.exception()
                raise
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    return None
                if pause is None or (error.status < 500 and error.status != 409):
                    raise
                _log.info("%s; asked again", error)
            except EngineUnreachable as error:
                if pause is None:
                    raise
                _log.info("%s; asked again", error)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        deadline: float | None = None,
        silence: float | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A call whose answer is read piece by piece. `silence`: how many seconds may pass without one.

        One that a busy cluster turns away (429) comes again when it says, as long as its deadline is not over.
        """
        aiohttp = _aiohttp()
        session, where = await self._open(), f"{method} {path}"
        timeout = aiohttp.ClientTimeout(total=deadline, sock_connect=_CONNECT, sock_read=silence)
        begun, was_refused = time.monotonic(), False
        try:
            while True:
                headers = await self._headers()
                response = await session.request(
                    method, await self._url(path), json=body, params=query, headers=headers, timeout=timeout
                )
                tickets = self._base._tickets
                if response.status == 401 and tickets is not None and not was_refused:
                    response.close()  # a token may be taken back before its time
                    was_refused = True
                    tickets.refused(headers["Authorization"].removeprefix("Bearer "))
                elif response.status == 429 and time.monotonic() - begun < (deadline or _DEADLINE):
                    response.close()
                    await asyncio.sleep(_pause(response.headers.get("Retry-After", "")))
                else:
                    break
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(where, error) from error
        try:
            _log.debug("%s: %d in %.1f ms", where, response.status, (time.monotonic() - begun) * 1e3)
            if response.status >= 400:
                raise await _refusal(response, where)
            yield _pieces(response, where)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def execute(self, pod: str, container: str, argv: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
        """A command in a container to its end: its code, and what it or the node said. No end of `stdin` is told.

        Raises `ApiError`, `EngineUnreachable`.
        """
        begun = time.monotonic()
        text, where = b"", f"exec in {pod}"
        try:
            async with asyncio.timeout(_EXEC):
                wire = await self.converse(pod, container, argv, has_input=bool(stdin))
                try:
                    for at in range(0, len(stdin), _PIECE):
                        await wire.send(stdin[at : at + _PIECE])
                    while (piece := await wire.receive()) is not None:
                        text = (text + piece)[-4096:]
                finally:
                    await wire.close()
        except TimeoutError as error:
            raise _unreachable(where, error) from error
        if wire.code is None:
            raise EngineUnreachable(f"{where}: the connection ended before the command did", mend="It is tried again")
        _log.debug("%s: in %.1f ms", where, (time.monotonic() - begun) * 1e3)
        said = (text + wire.said) if wire.code >= 0 else wire.said
        return wire.code, said.decode("utf-8", "replace")

    async def converse(self, pod: str, container: str, argv: Sequence[str], *, has_input: bool = True) -> Wire:
        """A command in a container, to be talked to. Raises `ApiError`, `EngineUnreachable`."""
        aiohttp = _aiohttp()
        session, where = await self._open(), f"exec in {pod}"
        query = [("container", container), ("stdout", "1"), ("stderr", "1"), *(("command", word) for word in argv)]
        query += [("stdin", "1")] if has_input else []
        try:
            async with asyncio.timeout(_EXEC):
                socket = await session.ws_connect(
                    await self._url(f"pods/{pod}/exec"),
                    params=query,
                    protocols=PROTOCOLS,
                    headers=await self._headers(),
                    autoping=True,
                    heartbeat=_HEARTBEAT,
                )
        except aiohttp.WSServerHandshakeError as error:
            # What is refused a WebSocket has no words with it: asked without, it has.
            plain = {"container": container, "stdout": "1", "command": argv[0]}
            said = error.message
            try:
                async with self.stream("GET", f"pods/{pod}/exec", deadline=_CONNECT, query=plain):
                    pass
            except ApiError as worse:
                said = worse.message if worse.status == error.status else said
            except (EngineUnreachable, EngineUnavailable):
                pass
            raise ApiError(f"{where}: {said}", status=error.status) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(where, error) from error
        return Wire(socket, where)

    async def _found(self) -> Access:
        base = self._base
        async with base._opening:
            if base._access is None:
                base._access = await asyncio.to_thread(find_access, self._settings)
                base._tickets = Tickets(base._access.plugin) if base._access.plugin is not None else None
            return base._access

    async def _url(self, path: str) -> str:
        server = (await self._found()).server
        return server + (path if path.startswith("/") else f"/api/v1/namespaces/{await self.namespace()}/{path}")

    async def _headers(self) -> dict[str, str]:
        access, tickets = await self._found(), self._base._tickets
        if tickets is not None:
            return {"Authorization": f"Bearer {await tickets.token()}"}
        return access.headers() if access.token_file is None else await asyncio.to_thread(access.headers)

    async def _open(self) -> aiohttp.ClientSession:
        access, base = await self._found(), self._base
        if base._session is None:
            aiohttp = _aiohttp()
            tls = access.tls if access.tls is not None else True
            connector = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=kept_alive)
            base._session = aiohttp.ClientSession(connector=connector, read_bufsize=2**18)
        return base._session


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine kubernetes needs aiohttp: {error}", mend="pip install 'dms-executor[kubernetes]'"
        ) from error
    return aiohttp


def _pause(after: str) -> float:
    """Seconds until a call that was turned away comes again; not all of them at once.

    https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
    """
    return (min(float(after), 10.0) if after.isdecimal() else 1.0) * random.uniform(1.0, 1.5)


async def _pieces(response: aiohttp.ClientResponse, where: str) -> AsyncIterator[bytes]:
    import aiohttp

    try:
        while piece := await response.content.readany():
            yield piece
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _unreachable(where, error) from error


async def _refusal(response: aiohttp.ClientResponse, where: str) -> ApiError:
    try:
        text = (await response.content.read(_WORDS)).decode("utf-8", "replace")
    except (_aiohttp().ClientError, OSError, TimeoutError) as error:
        raise _unreachable(where, error) from error
    try:
        said = json.loads(text)
        message, reason = str(said["message"]), str(said.get("reason", ""))
    except (ValueError, KeyError, TypeError):
        message, reason = text.strip() or response.reason or "no reason", ""
    return ApiError(f"{where}: {message}", status=response.status, reason=reason)


def _unreachable(where: str, error: BaseException) -> EngineUnreachable:
    why = str(error) or type(error).__name__
    return EngineUnreachable(f"the cluster does not answer {where}: {why}", mend="Look whether its API server is up")
