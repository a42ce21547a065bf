"""Firecracker's API on its Unix socket: what comes after the launch. One function a call, foreign errors mapped here.

The process on the other side runs a stranger's guest: what it answers is bounded, and believed only as far as it says
something of its own machine. No HTTP library: a call is a request and an answer on a connection of its own, and the
socket's path may be longer than one takes. src/firecracker/swagger/firecracker.yaml of
https://github.com/firecracker-microvm/firecracker
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..errors import EngineUnreachable, ExecutorError
from ..threads import finished
from ..typed import known

__all__ = ["Api", "ApiRefused", "Instance"]

_DEADLINE = 10.0  # seconds for a call that is answered at once unless the host is busy
_SNAPSHOT = 600.0  # seconds for one that writes or reads a guest's memory
_HEAD_MAX = 16384
_BODY_MAX = 4 << 20  # metadata has 51,200 bytes unless Firecracker is told otherwise

Method = Literal["GET", "PUT", "PATCH"]
T = TypeVar("T")


class ApiRefused(ExecutorError):
    """Firecracker refused a call. `status`: HTTP's; the message has its `fault_message`."""

    def __init__(self, message: str, *, status: int = 0, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.status = status


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What Firecracker says of its machine."""

    id: str
    state: Literal["Not started", "Running", "Paused"]
    vmm_version: str


class _Fault(msgspec.Struct, frozen=True):
    fault_message: str = ""


class Api:
    """One Firecracker's. Every method raises `ApiRefused`, and `EngineUnreachable`: gone, slow, or no such answer."""

    def __init__(self, socket: Path, *, deadline: float = _DEADLINE) -> None:
        self.socket = socket
        self._deadline = deadline

    async def describe(self) -> Instance:
        return self._decoded(await self._call("GET", "/"), Instance)

    async def start(self) -> None:
        """Lets the guest boot, where `--config-file` did not."""
        await self._call("PUT", "/actions", {"action_type": "InstanceStart"})

    async def press_ctrl_alt_del(self) -> None:
        """What a guest with a keyboard driver takes for a wish to shut down; x86_64 only."""
        await self._call("PUT", "/actions", {"action_type": "SendCtrlAltDel"})

    async def pause(self) -> None:
        """Stops the guest's processors. Idempotent."""
        await self._call("PATCH", "/vm", {"state": "Paused"})

    async def resume(self) -> None:
        await self._call("PATCH", "/vm", {"state": "Resumed"})

    async def save(self, state: Path, memory: Path, *, deadline: float = _SNAPSHOT) -> None:
        """Writes a paused machine into two files, as Firecracker sees the paths."""
        body = {"snapshot_type": "Full", "snapshot_path": os.fspath(state), "mem_file_path": os.fspath(memory)}
        await self._call("PUT", "/snapshot/create", body, deadline)

    async def load(
        self,
        state: Path,
        memory: Path,
        *,
        resume: bool,
        vsock: Path | None = None,
        taps: Mapping[str, str] | None = None,
        deadline: float = _SNAPSHOT,
    ) -> None:
        """Into a process that has no machine yet: one that was saved. `memory` stays open: it is the guest's.

        `vsock`: where its socket is now. `taps`: by interface, the host's devices that it has now.
        """
        body: dict[str, Any] = {
            "snapshot_path": os.fspath(state),
            "mem_backend": {"backend_type": "File", "backend_path": os.fspath(memory)},
            "resume_vm": resume,
        }
        if vsock is not None:
            body["vsock_override"] = {"uds_path": os.fspath(vsock)}
        if taps:
            body["network_overrides"] = [{"iface_id": name, "host_dev_name": tap} for name, tap in taps.items()]
        await self._call("PUT", "/snapshot/load", body, deadline)

    async def move_drive(self, name: str, path: Path) -> None:
        """Gives a drive another file: a clone its own disk."""
        await self._call("PATCH", f"/drives/{name}", {"drive_id": name, "path_on_host": os.fspath(path)})

    async def metadata(self) -> Any:
        """What a guest may ask the metadata service for."""
        return self._decoded(await self._call("GET", "/mmds"), object)

    async def set_metadata(self, message: Mapping[str, Any]) -> None:
        """In the place of what was there."""
        await self._call("PUT", "/mmds", message)

    async def merge_metadata(self, message: Mapping[str, Any]) -> None:
        """JSON Merge Patch, RFC 7396."""
        await self._call("PATCH", "/mmds", message)

    # -- within --------------------------------------------------------------------------------------------------

    async def _call(
        self, method: Method, path: str, body: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> bytes:
        limit = deadline or self._deadline
        content = b"" if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(limit):
                status, answer = await self._exchanged(_request(method, path, content))
        except TimeoutError as error:
            raise self._unreachable(f"it did not answer within {limit:g} s") from error
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from error
        if 200 <= status < 300:
            return answer
        fault = self._decoded(answer, _Fault).fault_message
        raise ApiRefused(f"firecracker refused {method} {path}: {fault or status}", status=status)

    async def _exchanged(self, request: bytes) -> tuple[int, bytes]:
        # The socket itself, opened: its path has 107 bytes at most (unix(7)), and a guest that broke out into its
        # folder leads nobody to another one by a link.
        opened = await finished(os.close, os.open, self.socket, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{opened}", limit=_HEAD_MAX)
        finally:
            os.close(opened)
        try:
            writer.write(request)
            await writer.drain()
            return await _answer(reader)
        finally:
            # What was not sent is of no use to anybody.
            writer.transport.abort()

    def _decoded(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=known(kind))
        except msgspec.MsgspecError as error:
            raise self._unreachable(f"its answer is none: {error}") from error

    def _unreachable(self, why: str) -> EngineUnreachable:
        return EngineUnreachable(f"firecracker at {self.socket}: {why}", mend="Look whether its process is there")


def _request(method: Method, path: str, content: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode("ascii") + b"\r\n" + content


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()):
        raise ValueError(f"no HTTP answer: {first[:100]!r}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > _BODY_MAX:
        raise ValueError(f"an answer of {length[:20]} bytes")
    return int(status), await reader.readexactly(int(length))
