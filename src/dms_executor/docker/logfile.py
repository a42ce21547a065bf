"""A job's output out of the file that conmon writes (log driver `k8s-file`), exact to the byte, followed to its end.

A line is `<stamp> <stream> <P or F> <bytes>`; after F there was a newline, after P there was none:
https://github.com/containers/conmon/blob/main/src/ctr_logging.c. At its greatest size the file is replaced by an empty
one: who has it open reads the old one out first; who comes later finds another file than the one that the cursor names,
and says that something is missing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ..engine import Chunk
from ..logs.inotify import CHANGED, Watcher
from ..types import Stream

__all__ = ["read_log"]

_PIECE = 1 << 20
_STREAMS: dict[bytes, Stream] = {b"stdout": "stdout", b"stderr": "stderr"}
_UNKNOWN = 1
"""How many bytes of each stream are said to be missing where nobody knows the number: at least that."""


async def read_log(path: Path, after: bytes | None, watcher: Watcher, over: asyncio.Event) -> AsyncIterator[Chunk]:
    """Everything after the cursor. `over` is set once nothing more will be written."""
    place = _Place(path, after)
    try:
        changes = watcher.watch(path.parent, CHANGED)
    except FileNotFoundError:
        return  # the container is gone
    waiting = asyncio.ensure_future(over.wait())
    waiting.add_done_callback(lambda _: changes.notify())
    try:
        while True:
            changes.clear()
            is_over = over.is_set()
            while chunks := await asyncio.to_thread(place.read):
                for chunk in chunks:
                    yield chunk
            if is_over:
                return
            await changes.wait()
    finally:
        waiting.cancel()
        changes.close()
        await asyncio.to_thread(place.close)


class _Place:
    """Where in which file the reader is. All of it blocks."""

    def __init__(self, path: Path, after: bytes | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        # A file is known by the stamp of its first line: numbers of inodes are given again.
        self._first, _, offset = (after or b" 0").partition(b" ")
        self._offset = int(offset)
        self._rest = b""
        self._missing: set[Stream] = set()

    def read(self) -> list[Chunk]:
        """What is there and was not read; empty if nothing is now."""
        while True:
            if self._file is None and not self._open():
                return []
            is_replaced = self._is_replaced()
            data = self._file.read(_PIECE) if self._file is not None else b""
            if data:
                *lines, self._rest = (self._rest + data).split(b"\n")
                if chunks := list(self._chunks(lines)):
                    return chunks
            elif is_replaced:
                self.close()
                self._first, self._offset = b"", 0
            else:
                return []

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._rest = b""

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        if self._first:
            if self._file.read(len(self._first)) == self._first:
                self._file.seek(self._offset)
            else:
                self._missing = {"stdout", "stderr"}
                self._first, self._offset = b"", 0
                self._file.seek(0)
        return True

    def _is_replaced(self) -> bool:
        try:
            return self._file is not None and not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _chunks(self, lines: list[bytes]) -> Iterator[Chunk]:
        """Lines of one stream that follow each other are one chunk."""
        present: tuple[Stream, bytes] | None = None
        parts: list[bytes] = []
        for line in lines:
            fields = line.split(b" ", 3)
            # The cursor stands before the line here, so behind what came before it.
            if present is not None and (len(fields) < 4 or _STREAMS.get(fields[1]) != present[0]):
                yield self._chunk(*present, parts)
                present, parts = None, []
            self._first = self._first or fields[0]
            self._offset += len(line) + 1
            if len(fields) < 4 or fields[1] not in _STREAMS:
                continue  # not conmon's
            present = present or (_STREAMS[fields[1]], fields[0])
            parts.append(fields[3])
            if fields[2] == b"F":
                parts.append(b"\n")
        if present is not None:
            yield self._chunk(*present, parts)

    def _chunk(self, stream: Stream, stamp: bytes, parts: list[bytes]) -> Chunk:
        lost = dict.fromkeys(sorted(self._missing), _UNKNOWN)
        self._missing = set()
        cursor = b"%b %d" % (self._first, self._offset)
        return Chunk(stream=stream, time=_moment(stamp), data=b"".join(parts), cursor=cursor, lost=lost)


def _moment(stamp: bytes) -> datetime:
    """RFC 3339 with nanoseconds, of which six digits count."""
    text = stamp.decode("ascii")
    return datetime.fromisoformat(text[:26] + text[29:])
