"""The files of a log: which there are, their headers, and an index of one segment in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .format import (
    BLOCK,
    CURSOR,
    END,
    ENTRY_SIZE,
    GAP,
    HEADER_SIZE,
    MAX_DATA,
    NAMES,
    STDERR,
    STDOUT,
    RawEntry,
    SegmentHeader,
    Totals,
    decode_entry_header,
    decode_gap,
    decode_segment_header,
    parse,
    segment_name,
    torn_entry,
)

__all__ = ["Block", "Mark", "Position", "Segment", "blocks", "log_folder", "marks", "segment_numbers"]

_CHUNK = 16384


class Position(NamedTuple):
    """A place in a log between two entries, and the bytes of each stream before it."""

    segment: int
    offset: int
    stdout: int
    stderr: int


class Mark(NamedTuple):
    """Where an entry stands: `offset` of its header, `stop` after the last byte that is there; what it adds."""

    offset: int
    stop: int
    kind: int
    stdout: int
    stderr: int


def log_folder(folder: Path) -> Path:
    """The log's folder in an execution's folder."""
    return folder / "log"


def segment_numbers(log: Path) -> list[int]:
    """Numbers of the segments that are there, ascending; empty where there is no log (yet, or any more)."""
    try:
        names = os.listdir(log)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if len(name) == 10 and name.isascii() and name.isdigit())


class Segment:
    """An open segment. Owns its descriptor: `close` it."""

    def __init__(self, fd: int, header: SegmentHeader) -> None:
        self.fd = fd
        self.number = header.number
        self.header = header

    @classmethod
    def open(cls, log: Path, number: int) -> Segment | None:
        """Opens segment `number`; None where it was unlinked meanwhile or its header was lost in a power cut."""
        try:
            fd = os.open(log / segment_name(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        header = None
        try:
            header = decode_segment_header(os.pread(fd, HEADER_SIZE, 0))
        finally:
            if header is None:
                os.close(fd)
        return cls(fd, header._replace(number=number)) if header else None

    @property
    def before(self) -> Totals:
        """Bytes of each stream before this segment."""
        return self.header.stdout, self.header.stderr

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)


class Block(NamedTuple):
    """A run of entries of one segment that fits into memory, with the totals before and after it."""

    start: Position
    stop: int
    after: Totals

    def read(self, fd: int, *, torn: bool) -> list[RawEntry]:
        """The block's entries. `torn`: also what is there of a last one that is not whole."""
        data = os.pread(fd, self.stop - self.start.offset, self.start.offset)
        parsed = parse(data)
        rest = torn_entry(data, parsed.offset) if torn and not parsed.damaged else None
        return [*parsed.entries, rest] if rest else parsed.entries


def marks(fd: int, *, torn: bool = False) -> Iterator[Mark]:
    """The place of each entry of a segment, reading little more than the headers.

    Ends after an end mark and before anything that is no whole entry; with `torn` a last entry of a stream that is
    not whole is given, too.
    """
    size = os.fstat(fd).st_size
    offset, base, chunk = HEADER_SIZE, 0, b""
    while offset + ENTRY_SIZE <= size:
        if not base <= offset <= base + len(chunk) - ENTRY_SIZE:
            base, chunk = offset, os.pread(fd, _CHUNK, offset)
            if len(chunk) < ENTRY_SIZE:
                return
        length, kind, _ = decode_entry_header(chunk, offset - base)
        stop = offset + ENTRY_SIZE + length
        if not 0 < kind <= CURSOR or length > MAX_DATA or (kind == GAP and length != ENTRY_SIZE):
            return
        if stop > size:
            if torn and kind in NAMES and size > offset + ENTRY_SIZE:
                yield _mark(fd, offset, size, kind)
            return
        yield _mark(fd, offset, stop, kind)
        if kind == END:
            return
        offset = stop


def _mark(fd: int, offset: int, stop: int, kind: int) -> Mark:
    stream, size = kind, stop - offset - ENTRY_SIZE
    if kind == GAP:
        stream, size = decode_gap(os.pread(fd, size, offset + ENTRY_SIZE))
    return Mark(offset, stop, kind, size if stream == STDOUT else 0, size if stream == STDERR else 0)


def blocks(segment: Segment, *, torn: bool = False) -> list[Block]:
    """The segment as blocks of up to 1 MiB and a little, oldest first. Empty where it holds no entry."""
    found: list[Block] = []
    start = Position(segment.number, HEADER_SIZE, *segment.before)
    stop, stdout, stderr = start.offset, start.stdout, start.stderr
    for mark in marks(segment.fd, torn=torn):
        if mark.stop - start.offset > BLOCK:
            found.append(Block(start, stop, (stdout, stderr)))
            start = Position(segment.number, stop, stdout, stderr)
        stop, stdout, stderr = mark.stop, stdout + mark.stdout, stderr + mark.stderr
    if stop > start.offset:
        found.append(Block(start, stop, (stdout, stderr)))
    return found
