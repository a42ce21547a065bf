"""A Firecracker that has no guest: on its socket it refuses what the description refuses, and answers as it says.

Beyond the description it knows in which state a call is allowed. It fails on demand: slowly, with a fault of its own,
by an answer that is none, by being gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .description import OURS, Description, published

__all__ = ["StandIn"]

_AFTER_START = "The requested operation is not supported after starting the microVM."
_BEFORE_START = "The requested operation is not supported before starting the microVM."


class StandIn:
    """`config`: what `--config-file` has; without it there is no machine yet."""

    def __init__(self, socket: Path, config: bytes | None = None) -> None:
        self.socket = socket
        self.description: Description = published() or OURS
        self.state = "Not started"
        self.has_metadata = False
        self.metadata: Any = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.refusal: tuple[int, bytes] | None = None  # status and body of the next answer
        self.raw: bytes | None = None  # sent in the next answer's place; nothing of it: the connection ends
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        if config is not None:
            described = json.loads(config)
            faults = self.description.faults(described, "FullVmConfiguration")
            assert not faults, faults
            self.has_metadata = "mmds-config" in described
            self.state = "Running"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StandIn]:
        server = await asyncio.start_unix_server(self._serve, self.socket)
        try:
            yield self
        finally:
            self.may_answer.set()
            server.close()
            self.socket.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields.get("Content-Length", 0)))
            method, path, _ = head.split(" ", 2)
            content = json.loads(body) if body else None
            self.calls.append((method, path, content))
            self.asked.set()
            await self.may_answer.wait()
            await self._delayed(method, path, content)
            writer.write(self._answer(method, path, content))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    async def _delayed(self, method: str, path: str, content: Any) -> None:
        """Before a call is looked at."""

    def _answer(self, method: str, path: str, content: Any) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.refusal is not None:
            return _packed(*self.refusal)
        try:
            operation = self.description.operation(method, path)
        except KeyError:
            return _fault(f"Invalid request method and/or path: {method} {path}.")
        faults = self.description.faults(content, operation["body"]) if operation["body"] else []
        refused = "; ".join(faults) or self._refused(method, path, content)
        if refused:
            return _fault(refused)
        answer = self._carried_out(method, path, content)
        expected = operation.get(200)
        if expected is None:
            return _packed(204, b"")
        assert not self.description.faults(answer, expected)
        return _packed(200, json.dumps(answer).encode())

    def _refused(self, method: str, path: str, content: Any) -> str:
        started = self.state != "Not started"
        if path in ("/vm", "/snapshot/create") or path.startswith("/drives/"):
            if not started:
                return _BEFORE_START
        elif started and (path == "/snapshot/load" or content == {"action_type": "InstanceStart"}):
            return _AFTER_START
        if path == "/mmds" and not self.has_metadata:
            return "MMDS error: The MMDS data store is not initialized."
        if path == "/snapshot/create" and self.state != "Paused":
            return "Create snapshot error: the microVM is not paused"
        if path == "/snapshot/load" and ("mem_backend" in content) == ("mem_file_path" in content):
            return "exactly one of mem_backend and mem_file_path"
        return ""

    def _carried_out(self, method: str, path: str, content: Any) -> Any:
        if path == "/":
            return {"app_name": "Firecracker", "id": "anonymous", "state": self.state, "vmm_version": "1.17.0"}
        if path == "/vm":
            self.state = "Paused" if content["state"] == "Paused" else "Running"
        elif path == "/actions":
            self.state = "Running"
        elif path == "/snapshot/load":
            self.state = "Running" if content.get("resume_vm") else "Paused"
        elif path == "/mmds" and method == "PUT":
            self.metadata = content
        elif path == "/mmds" and method == "PATCH":
            self.metadata = _merged(self.metadata, content)
        return self.metadata


def _merged(old: Any, new: Any) -> Any:
    """RFC 7396."""
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _fault(message: str) -> bytes:
    return _packed(400, json.dumps({"fault_message": message}).encode())


def _packed(status: int, body: bytes) -> bytes:
    """As Firecracker's own server writes it."""
    head = f"HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body
