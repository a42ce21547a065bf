"""What we tell QEMU over its monitor: to write a guest's state to a descriptor.

By QMP, on a socket that it was started with: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from ..errors import EngineUnreachable

__all__ = ["save"]

_NAME = "snapshot"
_MOST = 1 << 20  # bytes of one answer


async def save(monitor: socket.socket, fd: int) -> None:
    """Writes the guest as it is to the file `fd`; it stands still afterwards. Raises `EngineUnreachable`.

    It is not stopped before: who restores it finds one that runs, and need not tell it to.
    """
    talk = _Talk(monitor)
    await talk.greeted()
    await talk.ask("qmp_capabilities")
    await talk.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    # A local file: no rate is too much, and a guest that waits changes nothing meanwhile.
    await talk.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 60_000})
    await talk.ask("getfd", fd, fdname=_NAME)
    await talk.ask("migrate", uri=f"fd:{_NAME}")
    while (status := (await talk.event("MIGRATION")).get("status")) != "completed":
        if status in ("failed", "cancelled"):
            raise EngineUnreachable(f"QEMU could not write the guest's state: {status}")


class _Talk:
    def __init__(self, monitor: socket.socket) -> None:
        self._socket = monitor
        self._rest = b""
        self._events: list[dict[str, Any]] = []

    async def greeted(self) -> None:
        await self._message()

    async def ask(self, command: str, /, fd: int | None = None, **arguments: Any) -> None:
        """A descriptor goes along with the command's bytes, which are few: a socket takes them at once."""
        text = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        if fd is not None:
            socket.send_fds(self._socket, [text], [fd])
        else:
            await asyncio.get_running_loop().sock_sendall(self._socket, text)
        while "return" not in (answer := await self._message()):
            if "error" in answer:
                raise EngineUnreachable(f"QEMU refused {command}: {answer['error'].get('desc')}")
            self._events.append(answer)

    async def event(self, name: str) -> dict[str, Any]:
        """The data of the next of that name."""
        while True:
            found = self._events.pop(0) if self._events else await self._message()
            if found.get("event") == name:
                data: dict[str, Any] = found.get("data", {})
                return data

    async def _message(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            if not data or len(self._rest) > _MOST:
                raise EngineUnreachable("QEMU's monitor has gone")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise EngineUnreachable("QEMU's monitor speaks no JSON") from error
        return message
