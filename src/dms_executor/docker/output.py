"""A job's output, exact to the byte: attached to before the job runs, and from the daemon's log where that broke.

The daemon's log driver splits at newlines and holds a prompt back; an attached stream does not. So the first pull
reads the stream, and its cursor is how much of either stream it gave. Who goes on later reads the daemon's log from
its beginning and leaves that much out. https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from ..engine import Chunk
from ..errors import EngineUnreachable
from ..types import Stream
from .client import Answer, ApiError, Client

__all__ = ["Attached", "Position", "attach", "logged"]

_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_HEADER = 8
_STAMP = len("2026-11-28T00:57:16.619177636Z ")


class Position:
    """How much of either stream has been given; as text it is the cursor."""

    def __init__(self, cursor: bytes | None = None) -> None:
        counts = (cursor or b"0 0").split()
        self._count: dict[Stream, int] = {"stdout": int(counts[0]), "stderr": int(counts[1])}

    def after(self, stream: Stream, length: int) -> bytes:
        """The cursor behind the next `length` bytes of a stream."""
        self._count[stream] += length
        return b"%d %d" % (self._count["stdout"], self._count["stderr"])

    def of(self, stream: Stream) -> int:
        """Bytes of it."""
        return self._count[stream]


class Attached:
    """A stream that was opened before the job was let go."""

    def __init__(self, stack: AsyncExitStack, answer: Answer, breaks: int) -> None:
        self._stack = stack
        self._answer = answer
        self.breaks = breaks

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Everything, to the end of the stream."""
        position, frames = Position(), _Frames()
        async for piece in self._answer.pieces():
            now = datetime.now(UTC)
            for stream, data in _joined(frames.take(piece)):
                yield Chunk(stream=stream, time=now, data=data, cursor=position.after(stream, len(data)))

    async def close(self) -> None:
        """Idempotent."""
        await self._stack.aclose()


async def attach(client: Client, container: str, breaks: int) -> Attached:
    """Once it returns, no byte that the job writes is missed. Raises `ApiError`, `EngineUnreachable`."""
    stack = AsyncExitStack()
    path = f"/containers/{container}/attach"
    answer = await stack.enter_async_context(
        client.stream("POST", path, query={"stream": "1", "stdout": "1", "stderr": "1"})
    )
    return Attached(stack, answer, breaks)


async def logged(client: Client, container: str, after: bytes | None) -> AsyncIterator[Chunk]:
    """What the daemon has kept, without what was given before, to the container's end.

    Raises `EngineUnreachable` where the daemon goes away; a container that is gone has nothing.
    """
    position, frames = Position(after), _Frames()
    left = {stream: position.of(stream) for stream in _STREAMS.values()}
    query = {"stdout": "1", "stderr": "1", "follow": "1", "timestamps": "1"}
    try:
        async with client.stream("GET", f"/containers/{container}/logs", query=query) as answer:
            async for piece in answer.pieces():
                for stream, data in frames.take(piece):
                    stamp, data = _moment(data[:_STAMP]), data[_STAMP:]
                    known = min(left[stream], len(data))
                    left[stream] -= known
                    if known < len(data):
                        fresh = data[known:]
                        yield Chunk(stream=stream, time=stamp, data=fresh, cursor=position.after(stream, len(fresh)))
    except ApiError as error:
        if error.status == 404:
            return
        raise EngineUnreachable(error.message) from error


class _Frames:
    """Takes a stream apart into the pieces of stdout and stderr that it is made of."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, piece: bytes) -> Iterator[tuple[Stream, bytes]]:
        data = self._rest + piece if self._rest else piece
        at = 0
        while len(data) - at >= _HEADER:
            kind, length = struct.unpack_from(">BxxxL", data, at)
            if len(data) - at - _HEADER < length:
                break
            at += _HEADER
            if kind in _STREAMS and length:
                yield _STREAMS[kind], data[at : at + length]
            at += length
        self._rest = data[at:]


def _joined(frames: Iterator[tuple[Stream, bytes]]) -> Iterator[tuple[Stream, bytes]]:
    """Pieces of one stream that follow each other as one: many lines come in one read."""
    present: Stream | None = None
    parts: list[bytes] = []
    for stream, data in frames:
        if stream != present and present is not None:
            yield present, b"".join(parts)
            parts = []
        present = stream
        parts.append(data)
    if present is not None:
        yield present, b"".join(parts)


def _moment(stamp: bytes) -> datetime:
    text = stamp.strip().decode("ascii")
    return datetime.fromisoformat(f"{text[:26]}+00:00")
