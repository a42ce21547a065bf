"""Log entries on their way out: to stdout what the job wrote to its stdout, likewise stderr, byte for byte."""

from __future__ import annotations

import base64
from typing import Any

from ..logs.entry import Gap, LogEntry
from ..logs.stream import LogStream
from ..types import encode
from .terminal import STDERR, STDOUT, say, write

__all__ = ["copy_entries", "copy_entries_as_json"]

_FDS = {"stdout": STDOUT, "stderr": STDERR}


async def copy_entries(stream: LogStream, *, timestamps: bool = False) -> None:
    """Writes a stream's entries as they come. Raises BrokenPipeError."""
    inside: set[str] = set()
    async for entry in stream.entries():
        if isinstance(entry, Gap):
            say(f"{entry.bytes} bytes of {entry.stream} are missing here")
        else:
            await write(_FDS[entry.stream], _stamped(entry, inside) if timestamps else entry.data)


async def copy_entries_as_json(stream: LogStream) -> None:
    """One object an entry: stream, time, data as text, and data_base64 beside it where that lost something."""
    async for entry in stream.entries():
        await write(STDOUT, encode(_fields(entry)) + b"\n")


def _stamped(entry: LogEntry, inside: set[str]) -> bytes:
    """Each line that begins in this entry with its time before it; `inside`: the streams that are in mid-line."""
    if not entry.data:
        return b""
    stamp = entry.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode()
    begins = b"" if entry.stream in inside else stamp
    ended = entry.data.endswith(b"\n")
    (inside.discard if ended else inside.add)(entry.stream)
    body = entry.data[:-1] if ended else entry.data
    return begins + body.replace(b"\n", b"\n" + stamp) + (b"\n" if ended else b"")


def _fields(entry: LogEntry | Gap) -> dict[str, Any]:
    if isinstance(entry, Gap):
        return {"stream": entry.stream, "gap": entry.bytes}
    text = entry.data.decode("utf-8", "replace")
    fields = {"stream": entry.stream, "time": entry.time, "data": text}
    if text.encode() != entry.data:
        fields["data_base64"] = base64.b64encode(entry.data).decode()
    return fields
