"""A naive model of what a log stream gives: lists of (stream, stamp, data), each rule by brute force."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dms_executor.logs import LogReader, LogStream, LogWriter, Watcher
from dms_executor.logs.format import GAP, NAMES, decode_gap
from dms_executor.types import LogStreamRequest

Written = Sequence[tuple[str, int, bytes]]


def request(**fields: Any) -> LogStreamRequest:
    return LogStreamRequest(execution_id="e", **fields)


def write(folder: Path, entries: Written, *, cap: int = 1 << 30, segment: int = 1 << 24, end: bool = False) -> None:
    with LogWriter.open(folder, cap, segment) as writer:
        for stream, stamp, data in entries:
            writer.write(stream, stamp, data)  # type: ignore[arg-type]
        if end:
            writer.end(1)


def kept(folder: Path, *, final: bool = False) -> list[tuple[Any, ...]]:
    """All that the reader gives: (stream, stamp, data), or ("gap", stream, bytes)."""
    found: list[tuple[Any, ...]] = []
    with LogReader(folder) as reader:
        while entries := reader.read(final=final).entries:
            for kind, stamp, data in entries:
                if kind == GAP:
                    stream, lost = decode_gap(data)
                    found.append(("gap", NAMES[stream], lost))
                else:
                    found.append((NAMES[kind], stamp, bytes(data)))
    return found


async def streamed(folder: Path, *, finished: bool = True, **fields: Any) -> bytes:
    ended = asyncio.Event()
    if finished:
        ended.set()
    async with Watcher() as watcher:
        async with await LogStream.open(folder, request(**fields), watcher=watcher, finished=ended) as stream:
            return await stream.read()


def chosen(entries: Written, streams: Sequence[str], since: int | None) -> Written:
    return [each for each in entries if each[0] in streams and (since is None or each[1] >= since)]


def joined(entries: Written) -> bytes:
    return b"".join(data for _, _, data in entries)


def _numbered(entries: Written) -> list[tuple[int, tuple[str, int], int, int]]:
    """Each byte as (position, line, value, stamp); a line is (stream, number)."""
    count: dict[str, int] = {}
    found: list[tuple[int, tuple[str, int], int, int]] = []
    for stream, stamp, data in entries:
        for value in data:
            found.append((len(found), (stream, count.get(stream, 0)), value, stamp))
            if value == 10:
                count[stream] = count.get(stream, 0) + 1
    return found


def last(entries: Written, n: int) -> bytes:
    numbered = _numbered(entries)
    ends = {line: position for position, line, _, _ in numbered}
    lines = set(sorted(ends, key=lambda line: ends[line])[len(ends) - n :]) if n < len(ends) else set(ends)
    return bytes(value for _, line, value, _ in numbered if line in lines)


def tail(before: Written, after: Written) -> bytes:
    text = {stream: joined(chosen(before, [stream], None)) for stream in ("stdout", "stderr")}
    middle = {stream for stream, data in text.items() if data and not data.endswith(b"\n")}
    given = b""
    for stream, _, data in after:
        if stream in middle:
            if b"\n" not in data:
                continue
            middle.discard(stream)
            data = data.partition(b"\n")[2]
        given += data
    return given
