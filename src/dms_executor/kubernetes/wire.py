"""The streams of a command in a container, over one WebSocket: what comes and goes, and how the command ended.

A message begins with the number of its stream: 0 stdin, 1 stdout, 2 stderr, 3 the end, which is a Status.
https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import EngineUnreachable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["PROTOCOLS", "Wire"]

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _END = b"\0", 1, 3
_SAID = 4096


class Wire:
    """`close` it. `code`: how the command ended, -1 where the node says something else; None: not yet, or not told.

    `said`: what it wrote to stderr, the last of it; or the node's own words.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, where: str) -> None:
        self._socket = socket
        self._where = where
        self.code: int | None = None
        self.said = b""

    async def send(self, data: bytes) -> None:
        """To its stdin. Raises `EngineUnreachable`."""
        try:
            await self._socket.send_bytes(_STDIN + data)
        except (OSError, RuntimeError) as error:  # aiohttp's own word for a connection that closes is an OSError
            raise EngineUnreachable(f"{self._where}: the connection has ended") from error

    async def receive(self) -> bytes | None:
        """The next of its stdout; None: it has ended, or the connection has. Harmless to cancel."""
        import aiohttp

        while self.code is None:
            message = await self._socket.receive()
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                return None
            if message.type is aiohttp.WSMsgType.ERROR:
                return None
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            number, data = message.data[0], message.data[1:]
            if number == _END:
                self._end(data)
            elif number == _STDOUT and data:
                return bytes(data)
            elif number != _STDOUT:
                self.said = (self.said + data)[-_SAID:]
        return None

    async def close(self) -> None:
        """Idempotent. The command reads the end of its stdin."""
        await self._socket.close()

    def _end(self, status: bytes) -> None:
        """https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""
        told = json.loads(status)
        if told.get("status") == "Success":
            self.code = 0
            return
        for cause in (told.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode":
                self.code = int(cause["message"])
                return
        self.code = -1
        self.said = str(told.get("message") or "").encode() or status
