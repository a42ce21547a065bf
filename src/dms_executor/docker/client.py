"""The Docker Engine API over its Unix socket: one function a kind of call, foreign errors mapped here alone.

aiohttp is beneath it, and not aiodocker: that decodes a job's output to text, and inspects a container before it
attaches to it. https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import EngineUnavailable, EngineUnreachable, ExecutorError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "ApiError", "Client"]

_DEADLINE = 30.0  # seconds for a call that the daemon answers at once unless it is busy
_CONNECT = 4.0
_PING = "/_ping"
_NEWEST = (1, 47)  # of the API's versions, the last whose changes were read
_GONE = ("no such container", "no such exec session")
_log = logging.getLogger("dms_executor.docker")


class ApiError(ExecutorError):
    """The daemon refused a call. `status`: HTTP's."""

    def __init__(self, message: str, *, status: int = 0, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.status = status

    @property
    def is_gone(self) -> bool:
        """What was asked about is not there. Podman answers 500 for what goes away just then."""
        return self.status == 404 or (self.status == 500 and any(word in self.message.lower() for word in _GONE))

    @property
    def is_passing(self) -> bool:
        """Podman looked into /proc for a process that ended meanwhile: asked again it knows."""
        return self.status == 500 and "no such process" in self.message.lower()

    @property
    def is_over(self) -> bool:
        """A container that was to be signalled does not run (any more). Podman answers 500, too."""
        return self.is_gone or self.status == 409 or (self.status == 500 and "state improper" in self.message)


class Answer:
    """An answer whose body is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, title: str, where: str) -> None:
        self._response = response
        self._title = title
        self._where = where
        self._is_stopped = False

    def stop(self) -> None:
        """Nothing more of it is wanted: whoever reads it is at its end."""
        self._is_stopped = True
        self._response.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """What has arrived, again and again, to the end. Raises `EngineUnreachable` where that comes too soon."""
        import aiohttp

        try:
            while piece := await self._response.content.readany():
                yield piece
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if not self._is_stopped:
                raise _unreachable(self._title, self._where, error) from error

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """JSON objects, one a line."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield json.loads(line)
        if rest.strip():
            yield json.loads(rest)

    def header(self, name: str, default: str) -> str:
        """One of the answer's headers."""
        return str(self._response.headers.get(name, default))

    def write(self, data: bytes) -> None:
        """To a connection that the daemon has taken over both ways."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.write(data)


class Client:
    """One daemon's. `close` it in its loop. Connects at the first call."""

    def __init__(self, socket: str, title: str = "the Docker daemon") -> None:
        self.socket = socket
        self.title = title
        self._session: aiohttp.ClientSession | None = None
        self._version = ""

    async def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, *, deadline: float = _DEADLINE, **query: str) -> Any:
        """The JSON of a GET. Raises `ApiError`, `EngineUnreachable`."""
        return await self.call("GET", path, deadline=deadline, **query)

    async def post(self, path: str, body: Any = None, *, deadline: float = _DEADLINE, **query: str) -> Any:
        """The JSON of a POST; None where it has none."""
        return await self.call("POST", path, body, deadline=deadline, **query)

    async def call(self, method: str, path: str, body: Any = None, *, deadline: float = _DEADLINE, **query: str) -> Any:
        """Any call whose answer is small."""
        async with self.stream(method, path, body, deadline=deadline, query=query) as answer:
            text = b"".join([piece async for piece in answer.pieces()])
        return json.loads(text) if text.strip() else None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        deadline: float | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """A call whose answer is read piece by piece. `deadline`: of all of it; None: only the connect has one."""
        aiohttp = _aiohttp()
        version = "" if path in ("/version", _PING) or path.startswith("/v4.") else await self.version()
        session = self._open()
        where = f"{method} {path}"
        timeout = aiohttp.ClientTimeout(total=deadline, sock_connect=_CONNECT)
        begun = time.monotonic()
        try:
            response = await session.request(
                method, f"http://docker{version}{path}", json=body, params=query, timeout=timeout, headers=headers
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(self.title, where, error) from error
        try:
            _log.debug("%s: %d in %.1f ms", where, response.status, (time.monotonic() - begun) * 1e3)
            if response.status >= 400:
                raise await _refusal(response, where)
            yield Answer(response, self.title, where)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def version(self) -> str:
        """The prefix of paths: the newest version of the API that the daemon and this client both know."""
        if not self._version:
            # Podman takes two seconds over its /version: it asks the package manager where each program is from.
            async with self.stream("GET", _PING, deadline=_CONNECT) as answer:
                chosen = _numbers(answer.header("Api-Version", "1.41"))
            if chosen > _NEWEST:
                told = await self.get("/version", deadline=_CONNECT)
                chosen = max(_NEWEST, _numbers(told.get("MinAPIVersion", "1.12")))
            self._version = "/v{}.{}".format(*chosen)
        return self._version

    async def ping(self) -> None:
        """Raises `EngineUnreachable` where it does not answer now."""
        async with self.stream("GET", _PING, deadline=_CONNECT):
            return

    def forget_version(self) -> None:
        """The daemon may come back as another."""
        self._version = ""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            aiohttp = _aiohttp()
            connector = aiohttp.UnixConnector(self.socket, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=2**18)
        return self._session


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine docker needs aiohttp: {error}", mend="pip install 'dms-executor[docker]'"
        ) from error
    return aiohttp


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


async def _refusal(response: aiohttp.ClientResponse, where: str) -> ApiError:
    text = (await response.read()).decode("utf-8", "replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or response.reason or "no reason"
    return ApiError(f"{where}: {message}", status=response.status)


def _unreachable(title: str, where: str, error: BaseException) -> EngineUnreachable:
    why = str(error) or type(error).__name__
    return EngineUnreachable(f"{title} does not answer {where}: {why}", mend="Start or restart it")
