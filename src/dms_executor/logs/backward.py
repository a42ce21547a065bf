"""Reading a log from its end backwards: the last bytes of a stream, the last lines, and where the end is. Blocking.

The newest segments come first, and blocks in which no wanted stream moved are passed over unread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ..types import Stream
from .format import (
    BLOCK,
    END,
    HEADER_SIZE,
    KINDS,
    STDERR,
    STDOUT,
    RawEntry,
    Totals,
    decode_gap,
    decode_segment_header,
    parse,
    segment_name,
)
from .segments import Block, Position, Segment, blocks, log_folder, segment_numbers

__all__ = ["Start", "end_of_log", "last_lines", "read_tail"]

_Moved = Callable[[Totals, Totals], bool]


class Start(NamedTuple):
    """Where to begin a log: read from `position` (None: the oldest), drop what lies before `totals` of each stream.

    `end` is where the log ended when it was looked at. `partial`: the kinds whose last line was not finished there.
    """

    position: Position | None
    totals: Totals
    end: Position | None
    partial: frozenset[int] = frozenset()


class _Found(NamedTuple):
    block: Block
    entries: list[RawEntry]


def _walk_back(log: Path, moved: _Moved, *, torn: bool) -> Generator[_Found, None, None]:
    """Blocks from the newest backwards. The newest is always given, then those in which `moved` is true."""
    after: Totals | None = None
    for number in reversed(segment_numbers(log)):
        segment = Segment.open(log, number)
        if segment is None:
            continue
        try:
            if after is None or moved(segment.before, after):
                yield from _walk_segment(segment, moved, torn=torn and after is None, newest=after is None)
            after = segment.before
        finally:
            segment.close()


def _walk_segment(segment: Segment, moved: _Moved, *, torn: bool, newest: bool) -> Generator[_Found, None, None]:
    found = blocks(segment, torn=torn)
    if newest and not found:
        found = [Block(Position(segment.number, HEADER_SIZE, *segment.before), HEADER_SIZE, segment.before)]
    for block in reversed(found):
        if newest or moved((block.start.stdout, block.start.stderr), block.after):
            yield _Found(block, block.read(segment.fd, torn=torn))
        newest = False


def _end(found: _Found) -> Position:
    return Position(found.block.start.segment, found.block.stop, *found.block.after)


def _placed(found: _Found) -> list[tuple[RawEntry, int]]:
    """The block's stream entries with the total of their stream before each."""
    at = [0, found.block.start.stdout, found.block.start.stderr]
    placed = []
    for entry in found.entries:
        kind, _, data = entry
        if kind <= STDERR:
            placed.append((entry, at[kind]))
            at[kind] += len(data)
        elif kind < END:
            stream, lost = decode_gap(data)
            at[stream] += lost
    return placed


def read_tail(folder: Path, stream: Stream, n: int) -> tuple[bytes, bool]:
    """The last `n` bytes of a stream that nobody writes any more, and whether there had been more.

    Bytes that were lost count as "more": true also where a gap lies within. An absent log is (b"", False).
    """
    kind, log = KINDS[stream], log_folder(folder)
    if n > 0 and (whole := _whole_log(log)) is not None:
        entries, totals = whole
        return _join_tail([data for entry, _, data in entries if entry == kind], n, totals[kind - 1])
    pieces: list[bytes] = []
    total, missing = -1, n
    with closing(_walk_back(log, lambda before, after: before[kind - 1] != after[kind - 1], torn=True)) as walk:
        for found in walk:
            total = found.block.after[kind - 1] if total < 0 else total
            if missing <= 0:
                break
            data = b"".join([data for entry, _, data in found.entries if entry == kind])[-missing:]
            pieces.append(data)
            missing -= len(data)
            if missing <= 0:
                break
    pieces.reverse()
    kept = b"".join(pieces)
    return kept, total > len(kept)


def _whole_log(log: Path) -> tuple[list[RawEntry], Totals] | None:
    """The entries of a log that is one finished segment of at most one block: most are. One open, one read."""
    try:
        fd = os.open(log / segment_name(1), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        data = os.pread(fd, BLOCK, 0)
    finally:
        os.close(fd)
    if decode_segment_header(data) is None:
        return None
    parsed = parse(data, HEADER_SIZE)
    if not parsed.entries or parsed.entries[-1][0] != END:
        return None
    return parsed.entries, (parsed.stdout, parsed.stderr)


def _join_tail(pieces: Sequence[memoryview], n: int, total: int) -> tuple[bytes, bool]:
    kept = b"".join(pieces)[-n:]
    return kept, total > len(kept)


def end_of_log(folder: Path, kinds: frozenset[int], *, torn: bool = False) -> Start:
    """The end of what is written, and which of `kinds` stand there in mid-line."""
    unseen = set(kinds)
    partial: set[int] = set()
    end: Position | None = None

    def moved(before: Totals, after: Totals) -> bool:
        return any(before[kind - 1] != after[kind - 1] for kind in unseen)

    with closing(_walk_back(log_folder(folder), moved, torn=torn)) as walk:
        for found in walk:
            end = end or _end(found)
            unseen = {kind for kind in unseen if end[kind + 1] > 0}
            for (kind, _, data), _ in reversed(_placed(found)):
                if kind in unseen and data:
                    unseen.discard(kind)
                    partial |= {kind} if data[-1] != 10 else set()
            if not unseen:
                break
    return Start(end, (end.stdout, end.stderr) if end else (0, 0), end, frozenset(partial))


class _Lines:
    """Counts the lines of each stream backwards until `n` are found and the beginning of each is known."""

    def __init__(self, n: int, kinds: frozenset[int], end: Position) -> None:
        self.missing = n
        self.start = {STDOUT: end.stdout, STDERR: end.stderr}
        self.seeking = set(kinds)
        self._counted = dict.fromkeys(kinds, 0)
        self._unseen = set(kinds)
        self._settle()

    def take(self, kind: int, data: bytes, before: int) -> None:
        """The next older data of a stream that is still sought; `before` is the stream's total before it."""
        if kind in self._unseen and data:
            self._unseen.discard(kind)
            if not data.endswith(b"\n"):
                self._count(kind)
        stop = len(data)
        while kind in self.seeking and (found := data.rfind(b"\n", 0, stop)) >= 0:
            self.start[kind] = before + found + 1
            stop = found
            if self.missing:
                self._count(kind)
            elif self._counted[kind]:
                self.seeking.discard(kind)

    def _count(self, kind: int) -> None:
        if self.missing:
            self.missing -= 1
            self._counted[kind] += 1
            self._settle()

    def _settle(self) -> None:
        if not self.missing:
            # None of these streams' lines is among the last n: nothing before the end is wanted of them.
            self.seeking -= {kind for kind in self.seeking if not self._counted[kind]}


def last_lines(folder: Path, n: int, kinds: frozenset[int], *, since: int | None = None, torn: bool = False) -> Start:
    """Where the last `n` lines of `kinds` begin, of what arrived at or after the stamp `since`.

    A line stands in log order where its last byte does; an unfinished last line counts. Where the log holds fewer,
    the start is the oldest that is kept, with the gap before it.
    """
    lines: _Lines | None = None
    end = start = None

    def moved(before: Totals, after: Totals) -> bool:
        return lines is not None and any(before[kind - 1] != after[kind - 1] for kind in lines.seeking)

    with closing(_walk_back(log_folder(folder), moved, torn=torn)) as walk:
        for found in walk:
            if lines is None:
                end = _end(found)
                lines = _Lines(n, kinds, end)
            for (kind, stamp, data), before in reversed(_placed(found)):
                if kind in lines.seeking and (since is None or stamp >= since):
                    lines.take(kind, bytes(data), before)
            start = found.block.start
            if not lines.seeking:
                break
    if lines is None or end is None:
        return Start(None, (0, 0), end)
    if lines.seeking:
        # A line whose beginning is no longer there begins at the gap.
        lines.start.update(dict.fromkeys(lines.seeking, 0))
        start = None
    return Start(start, (lines.start[STDOUT], lines.start[STDERR]), end)
