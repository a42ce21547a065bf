"""Reading a log forwards: entries from a position on, and gaps where segments were unlinked. Blocking."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..errors import ResultExpired
from .backward import read_tail
from .format import (
    BLOCK,
    END,
    GAP,
    HEADER_SIZE,
    STDERR,
    STDOUT,
    RawEntry,
    Totals,
    encode_gap,
    parse,
    torn_entry,
)
from .segments import Position, Segment, log_folder, segment_numbers

__all__ = ["Batch", "LogReader", "read_tail"]


class Batch(NamedTuple):
    """Entries of stdout, stderr and gap, in log order; `before` are the totals before the first of them."""

    entries: list[RawEntry]
    before: Totals


class LogReader:
    """Reads `folder/log` forwards, at its own pace, while it is written and its oldest segments go.

    `start` is a place that was found before (None: the oldest that is kept, so that what went before is a gap).
    `limit` is (segment, offset): nothing beyond it is read. `ended` says that the end mark (or the limit) was met.
    Keeps one descriptor open, never more than one block in memory; `close` it.
    """

    def __init__(self, folder: Path, start: Position | None = None, *, limit: tuple[int, int] | None = None) -> None:
        self._log = log_folder(folder)
        self._limit = limit
        self._at = start or Position(0, HEADER_SIZE, 0, 0)
        self._segment: Segment | None = None
        self._sealed = False
        self._began = start is not None
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def position(self) -> Position:
        """Where the next batch begins."""
        return self._at

    def read(self, *, final: bool = False) -> Batch:
        """The next entries, at most a block of them; none: there is no more for now, or at all (`ended`).

        `final`: the writer is gone, so what is there of a last entry that is not whole is data, too. Raises
        ResultExpired where the log was dropped before its end was read, StateTooNew for a newer format.
        """
        while not self.ended:
            before = self._at.stdout, self._at.stderr
            if self._segment is None:
                entries = self._open_next()
                if self._segment is None:
                    return Batch([], before)
            else:
                entries, moved = self._read_segment(self._segment, final=final)
                if not moved and not self.ended and not self._advance():
                    return Batch([], before)
            if entries:
                return Batch(entries, before)
        return Batch([], (self._at.stdout, self._at.stderr))

    def close(self) -> None:
        """Gives the descriptor back. Idempotent."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _read_segment(self, segment: Segment, *, final: bool) -> tuple[list[RawEntry], bool]:
        """The stream entries of the next block, and whether there was any entry at all."""
        size = BLOCK
        if self._limit is not None and segment.number == self._limit[0]:
            size = min(size, self._limit[1] - self._at.offset)
        block = os.pread(segment.fd, size, self._at.offset) if size > 0 else b""
        parsed = parse(block)
        if not parsed.entries:
            # What is left below the limit is at most a part of an entry that was being written at the call.
            self.ended = size < BLOCK
            torn = final and self._limit is None and not parsed.damaged and self._newest() == segment.number
            return self._torn(block) if torn else [], False
        at = self._at
        self._at = Position(at.segment, at.offset + parsed.offset, at.stdout + parsed.stdout, at.stderr + parsed.stderr)
        if not parsed.special:
            return parsed.entries, True
        self.ended = parsed.entries[-1][0] == END
        return [entry for entry in parsed.entries if entry[0] < END], True

    def _torn(self, block: bytes) -> list[RawEntry]:
        self.ended = True
        rest = torn_entry(block, 0)
        return [rest] if rest else []

    def _newest(self) -> int:
        numbers = segment_numbers(self._log)
        return numbers[-1] if numbers else self._at.segment

    def _advance(self) -> bool:
        """Leaves a segment that was read to its end, once there is a newer one. False: there is none."""
        if self._sealed:
            self.close()
            return True
        # The writer may have appended to this segment before it made the next: it is read once more.
        numbers = segment_numbers(self._log)
        self._check_dropped(numbers)
        self._sealed = any(number > self._at.segment for number in numbers)
        return self._sealed

    def _check_dropped(self, numbers: list[int]) -> None:
        if self._began and not numbers:
            raise ResultExpired("the log was dropped while it was being read", mend="Read it before it is removed")

    def _open_next(self) -> list[RawEntry]:
        """Opens the segment of the position, else the next that is there; gives the gaps between them."""
        at = self._at
        numbers = segment_numbers(self._log)
        self._check_dropped(numbers)
        for number in numbers:
            if number < at.segment or (number == at.segment and self._sealed):
                continue
            segment = Segment.open(self._log, number)
            if segment is not None:
                return self._enter(segment)
        return []

    def _enter(self, segment: Segment) -> list[RawEntry]:
        at, header = self._at, segment.header
        self._segment, self._sealed, self._began = segment, False, True
        if segment.number == at.segment:
            return []
        gaps: list[RawEntry] = []
        for kind, lost in ((STDOUT, header.stdout - at.stdout), (STDERR, header.stderr - at.stderr)):
            if lost > 0:
                gaps.append((GAP, header.stamp, memoryview(encode_gap(kind, lost))))
        self._at = Position(segment.number, HEADER_SIZE, max(header.stdout, at.stdout), max(header.stderr, at.stderr))
        self.ended = self._limit is not None and segment.number > self._limit[0]
        return gaps
