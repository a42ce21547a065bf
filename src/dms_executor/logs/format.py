"""The bytes of a log: segment headers, entries and an incremental parser. See docs/protocol.md, section 5."""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from ..errors import StateTooNew
from ..types import Stream

__all__ = [
    "BLOCK",
    "CURSOR",
    "END",
    "ENTRY_SIZE",
    "GAP",
    "HEADER_SIZE",
    "KINDS",
    "MAGIC",
    "MAX_DATA",
    "NAMES",
    "STDERR",
    "STDOUT",
    "Parsed",
    "RawEntry",
    "SegmentHeader",
    "Totals",
    "decode_entry_header",
    "decode_gap",
    "decode_segment_header",
    "encode_entry_header",
    "encode_gap",
    "encode_segment_header",
    "parse",
    "segment_name",
    "torn_entry",
]

MAGIC = b"DMSLOG\x00\x01"
HEADER_SIZE = 64
ENTRY_SIZE = 16
MAX_DATA = 1 << 20
BLOCK = MAX_DATA + 4096
"""Bytes to read at once: the longest entry always fits, and so do 16 entries of 64 KiB."""

STDOUT, STDERR, GAP, END, CURSOR = 1, 2, 3, 4, 5
NAMES: dict[int, Stream] = {STDOUT: "stdout", STDERR: "stderr"}
KINDS: dict[Stream, int] = {"stdout": STDOUT, "stderr": STDERR}

_SEGMENT = struct.Struct("<8sQQQQ24x")
_ENTRY = struct.Struct("<IB3xQ")
_GAP = struct.Struct("<B7xQ")

RawEntry: TypeAlias = tuple[int, int, memoryview]
"""Kind, stamp (ns since the epoch), data. A plain tuple: a log may hold millions."""
Totals: TypeAlias = tuple[int, int]
"""Bytes of stdout and of stderr since the log began, lost ones included."""


class SegmentHeader(NamedTuple):
    """A segment's number, the bytes of each stream before it (lost ones included) and its stamp in ns."""

    number: int
    stdout: int
    stderr: int
    stamp: int


class Parsed(NamedTuple):
    """What `parse` found: whole entries, where it stopped, bytes of each stream passed, and why it stopped.

    `special`: there are entries other than stdout and stderr among them. `damaged`: what stands at `offset` is no
    entry; zeros (what a power cut leaves) count as damage, a part of an entry does not.
    """

    entries: list[RawEntry]
    offset: int
    stdout: int
    stderr: int
    special: bool
    damaged: bool


def segment_name(number: int) -> str:
    """The file name of segment `number`."""
    return f"{number:010d}"


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The 64 bytes that begin a segment."""
    return _SEGMENT.pack(MAGIC, *header)


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """The header that `data` begins with; None where it is torn or damaged.

    Raises StateTooNew for a log of a newer version.
    """
    if len(data) < HEADER_SIZE or data[:7] != MAGIC[:7]:
        return None
    if data[7] > MAGIC[7]:
        raise StateTooNew(
            f"the log has version {data[7]}, this release reads {MAGIC[7]}", mend="Use a newer dms-executor"
        )
    magic, number, stdout, stderr, stamp = _SEGMENT.unpack_from(data)
    return SegmentHeader(number, stdout, stderr, stamp) if magic == MAGIC else None


def encode_entry_header(kind: int, stamp: int, length: int) -> bytes:
    """The 16 bytes before an entry's data. `stamp` in ns since the epoch."""
    return _ENTRY.pack(length, kind, stamp)


def decode_entry_header(block: bytes, offset: int) -> tuple[int, int, int]:
    """(length, kind, stamp) of the entry at `offset`."""
    length, kind, stamp = _ENTRY.unpack_from(block, offset)
    return length, kind, stamp


def encode_gap(kind: int, lost: int) -> bytes:
    """The data of a gap entry: `lost` bytes of the stream `kind`."""
    return _GAP.pack(kind, lost)


def decode_gap(data: memoryview | bytes) -> tuple[int, int]:
    """(kind of the stream, bytes lost) of a gap entry's data. Raises struct.error where it is not 16 bytes long."""
    kind, lost = _GAP.unpack(data)
    return kind, lost


def parse(block: bytes, offset: int = 0) -> Parsed:
    """All whole entries of `block` from `offset` on, without copying: each one's data is a view of `block`.

    Stops after an end mark, before an entry that is not whole, and before anything that is no entry.
    """
    entries: list[RawEntry] = []
    append, unpack, view = entries.append, _ENTRY.unpack_from, memoryview(block)
    size = len(block)
    last_header = size - ENTRY_SIZE
    stdout = stderr = 0
    special = damaged = False
    while offset <= last_header:
        length, kind, stamp = unpack(block, offset)
        start = offset + ENTRY_SIZE
        stop = start + length
        if not 0 < kind <= CURSOR or length > MAX_DATA or (kind == GAP and length != _GAP.size):
            damaged = True
            break
        if stop > size:
            break
        data = view[start:stop]
        append((kind, stamp, data))
        offset = stop
        if kind == STDOUT:
            stdout += length
        elif kind == STDERR:
            stderr += length
        else:
            special = True
            if kind == END:
                break
            if kind == GAP:
                stream, lost = _GAP.unpack(data)
                stdout += lost if stream == STDOUT else 0
                stderr += lost if stream == STDERR else 0
    return Parsed(entries, offset, stdout, stderr, special, damaged)


def torn_entry(block: bytes, offset: int) -> RawEntry | None:
    """What is there of a stream's entry that is not whole: data, once its writer is gone. None: nothing."""
    if offset + ENTRY_SIZE >= len(block):
        return None
    length, kind, stamp = _ENTRY.unpack_from(block, offset)
    if kind not in NAMES or length > MAX_DATA:
        return None
    return kind, stamp, memoryview(block)[offset + ENTRY_SIZE : offset + ENTRY_SIZE + length]
