"""A job's output, exact to the byte: attached to before the job runs, and from the daemon's log where that broke.

The daemon's log driver splits at newlines and holds a prompt back; an attached stream does not. So the first pull
reads the stream, and its cursor is how much of either stream it gave. Who goes on later reads the daemon's log from
its beginning and leaves that much out; where the daemon's rotation has taken the beginning, it goes on after the moment
at which the last was given, and says that something is missing. https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime

from ..engine import Chunk
from ..errors import EngineUnreachable
from ..types import Stream
from .client import Answer, ApiError, Client

__all__ = ["Attached", "Position", "attach", "logged", "missing_end"]

_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_HEADER = 8
_STAMP = len("2026-11-28T00:57:16.619177636Z ")
_UNKNOWN = 1
"""How many bytes of each stream are said to be missing where nobody knows the number: at least that."""
_FAR = 64 << 10  # bytes: before that much no rotation takes anything, the least that a file holds
_SETTLED = 0.5
"""Seconds after we had a line in which the daemon has stamped it, and in which none that was killed comes up again."""
_AT_THE_BEGINNING = (b"0", b"0", b"0", b"-", b"0", b"0", b"0", b"0")
_MOST = 1 << 48  # of a count: a job that is root could write any into its report
_LATE = 2.0  # seconds by which the daemon's stamp may be later than the moment at which we had the same bytes


class Position:
    """How much of either stream has been given, when a line's end was, and the stamp that the daemon's log began with.

    As text it is the cursor. The daemon keeps a line, and stamps it, once it has ended. Also how much was said to be
    missing.
    """

    def __init__(self, cursor: bytes | None = None) -> None:
        words = (cursor or b"").split()
        out, err, moment, first, *rest = [*words, *_AT_THE_BEGINNING[len(words) :]]
        out_tail, err_tail, out_lost, err_lost = rest
        self._count: dict[Stream, int] = {"stdout": int(out), "stderr": int(err)}
        self.tail: dict[Stream, int] = {"stdout": int(out_tail), "stderr": int(err_tail)}
        """Bytes of a line whose end was not given."""
        self._lost: dict[Stream, int] = {"stdout": int(out_lost), "stderr": int(err_lost)}
        self.moment = int(moment)
        self.first = b"" if first == b"-" else first

    def after(self, stream: Stream, data: bytes, moment: float) -> bytes:
        """The cursor behind the next bytes of a stream; `moment` in seconds since 1970."""
        self._count[stream] += len(data)
        if b"\n" in data:
            self.moment = max(self.moment, int(moment * 1e6))
            self.tail[stream] = len(data) - data.rindex(b"\n") - 1
        else:
            self.tail[stream] += len(data)
        return self.cursor

    @property
    def cursor(self) -> bytes:
        """Behind all that was given."""
        counts, tails, lost = (b"%d %d" % tuple(each.values()) for each in (self._count, self.tail, self._lost))
        return b"%b %d %b %b %b" % (counts, self.moment, self.first or b"-", tails, lost)

    def lose(self, lost: Mapping[Stream, int]) -> None:
        """That much is said to be missing."""
        for stream, count in lost.items():
            self._lost[stream] += count

    def missing(self, wrote: tuple[int, int]) -> dict[Stream, int]:
        """Of what a job has written in all, what was neither given nor said to be missing."""
        all_of: dict[Stream, int] = dict(zip(self._count, wrote, strict=True))
        short = {stream: all_of[stream] - self._count[stream] - self._lost[stream] for stream in sorted(all_of)}
        return {stream: min(count, _MOST) for stream, count in short.items() if count > 0}

    def of(self, stream: Stream) -> int:
        """Bytes of it."""
        return self._count[stream]

    @property
    def given(self) -> int:
        """Bytes of both streams."""
        return sum(self._count.values())

    def is_rotated(self, stamp: bytes) -> bool:
        """Whether a log that begins with this stamp lacks what it once began with.

        Where no line was given nobody can tell; then the daemon has kept as much as the executor's own log may hold.
        """
        if self.first:
            return stamp != self.first
        return self.moment > 0 and _moment(stamp).timestamp() > self.moment / 1e6 + _LATE


class Attached:
    """A stream that was opened before the job was let go."""

    def __init__(self, stack: AsyncExitStack, answer: Answer, breaks: int, client: Client, container: str) -> None:
        self._stack = stack
        self._answer = answer
        self._client = client
        self._container = container
        self._wrote: tuple[int, int] | None = None
        self.position = Position()
        self.breaks = breaks

    def expect(self, wrote: tuple[int, int]) -> None:
        """The job is over and has written that much: once it has come, nothing more is waited for."""
        self._wrote = wrote
        if self.is_whole:
            self._answer.stop()

    @property
    def is_whole(self) -> bool:
        """Whether all has come that was expected."""
        return self._wrote is not None and not self.position.missing(self._wrote)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Everything, to the end of the stream, or of what is expected."""
        position, frames = self.position, _Frames()
        began: datetime | None = None
        if self.is_whole:
            return
        async for piece in self._answer.pieces():
            now = datetime.now(UTC)
            began = began or now
            if not position.first and position.given + len(piece) > _FAR:
                position.first = _began_with(await _first_stamp(self._client, self._container), began)
            for stream, data in _joined(frames.take(piece)):
                cursor = position.after(stream, data, now.timestamp())
                yield Chunk(stream=stream, time=now, data=data, cursor=cursor)
            if self.is_whole:
                return

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
    return Attached(stack, answer, breaks, client, container)


async def logged(client: Client, container: str, after: bytes | None, *, follow: bool = True) -> AsyncIterator[Chunk]:
    """What the daemon has kept, without what was given before; `follow`: to the container's end.

    Raises `EngineUnreachable` where the daemon goes away; a container that is gone has nothing.
    """
    position, frames = Position(after), _Frames()
    left = {stream: position.of(stream) for stream in _STREAMS.values()}
    tail, settled = dict(position.tail), position.moment / 1e6 + _SETTLED
    given_until, lost = 0.0, dict[Stream, int]()
    is_first = True
    query = {"stdout": "1", "stderr": "1", "follow": str(int(follow)), "timestamps": "1"}
    try:
        async with client.stream("GET", f"/containers/{container}/logs", query=query) as answer:
            async for piece in answer.pieces():
                for stream, data in frames.take(piece):
                    stamp, data = data[:_STAMP].strip(), data[_STAMP:]
                    when = _moment(stamp)
                    if is_first and position.is_rotated(stamp):
                        given_until = position.moment / 1e6
                        left = dict.fromkeys(left, 0)
                        lost = dict.fromkeys(sorted(left), _UNKNOWN)
                        position.lose(lost)
                    if is_first:
                        position.first, is_first = stamp, False
                    if when.timestamp() <= given_until:
                        continue
                    if when.timestamp() > settled:
                        # A daemon that was killed has not kept all that it had given: what is later is new.
                        left[stream] = min(left[stream], tail[stream])
                    known = min(left[stream], len(data))
                    left[stream] -= known
                    if known < len(data):
                        fresh = data[known:]
                        cursor = position.after(stream, fresh, when.timestamp())
                        yield Chunk(stream=stream, time=when, data=fresh, cursor=cursor, lost=lost)
                        lost = {}
    except ApiError as error:
        if error.status == 404:
            return
        raise EngineUnreachable(error.message) from error


def missing_end(cursor: bytes | None, moment: datetime, lost: Mapping[Stream, int] | None = None) -> Chunk:
    """No data, and that so much is missing; None: nobody knows how much."""
    position = Position(cursor)
    position.lose(lost := dict(lost or dict.fromkeys(sorted(_STREAMS.values()), _UNKNOWN)))
    return Chunk(stream="stdout", time=moment, data=b"", cursor=position.cursor, lost=lost)


def _began_with(stamp: bytes, began: datetime) -> bytes:
    """The stamp, where it is the job's first output's; a word that is no stamp where a rotation was faster."""
    if not stamp or _moment(stamp).timestamp() <= began.timestamp() + _LATE:
        return stamp
    return b"rotated"


async def _first_stamp(client: Client, container: str) -> bytes:
    """What the daemon's log begins with now; nothing where it cannot be told."""
    frames, query = _Frames(), {"stdout": "1", "stderr": "1", "timestamps": "1"}
    with suppress(ApiError, EngineUnreachable):
        async with client.stream("GET", f"/containers/{container}/logs", query=query) as answer:
            async for piece in answer.pieces():
                for _, data in frames.take(piece):
                    return data[:_STAMP].strip()
    return b""


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
    text = stamp.decode("ascii")
    return datetime.fromisoformat(f"{text[:26]}+00:00")
