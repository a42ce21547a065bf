"""Whether a log on disk is as docs/protocol.md, section 5, has it: for the tests of both writers."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import StateDamaged
from .format import (
    CURSOR,
    END,
    ENTRY_SIZE,
    GAP,
    HEADER_SIZE,
    MAX_DATA,
    NAMES,
    STDERR,
    STDOUT,
    decode_entry_header,
    decode_gap,
    decode_segment_header,
    segment_name,
)
from .segments import log_folder, segment_numbers

__all__ = ["LogSummary", "check_log"]

_NAME = re.compile(r"[0-9]{10}|lock|[^/]*\.tmp")


class LogSummary(NamedTuple):
    """What a well-formed log holds: `kept` and `lost` bytes by stream, lost ones before the first segment included."""

    segments: list[int]
    entries: int
    kept: dict[str, int]
    lost: dict[str, int]
    cursors: int
    ended: bool
    size: int


def check_log(folder: Path, *, cap: int | None = None) -> LogSummary:
    """Reads `folder/log` strictly and says what it holds. Blocking; takes one segment at a time into memory.

    `cap`: also checks that all segments together have no more bytes. Raises StateDamaged with the first thing that
    is not as the protocol has it; a torn entry is one of them.
    """
    log = log_folder(folder)
    for name in os.listdir(log):
        _require(_NAME.fullmatch(name) is not None, log, f"unexpected file {name!r}")
    numbers = segment_numbers(log)
    check = _Check(log)
    for place, number in enumerate(numbers):
        check.segment(number, last=place == len(numbers) - 1)
    _require(numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True, log, "a segment is missing")
    _require(cap is None or len(numbers) <= 1 or check.size <= cap, log, f"{check.size} bytes are over the cap {cap}")
    return LogSummary(
        numbers,
        check.entries,
        {NAMES[kind]: check.kept[kind] for kind in NAMES},
        {NAMES[kind]: check.lost[kind] for kind in NAMES},
        check.cursors,
        check.ended,
        check.size,
    )


class _Check:
    def __init__(self, log: Path) -> None:
        self.log = log
        self.totals: dict[int, int] | None = None
        self.kept = {STDOUT: 0, STDERR: 0}
        self.lost = {STDOUT: 0, STDERR: 0}
        self.entries = self.cursors = self.size = 0
        self.ended = False

    def segment(self, number: int, *, last: bool) -> None:
        path = self.log / segment_name(number)
        info = path.lstat()
        _require(stat.S_ISREG(info.st_mode), path, "no regular file")
        _require(not info.st_mode & 0o077, path, f"mode {info.st_mode & 0o777:o} lets others in")
        data = path.read_bytes()
        self.size += len(data)
        header = decode_segment_header(data)
        if header is None:
            raise StateDamaged(f"{path}: no segment header")
        _require(header.number == number, path, f"the header has number {header.number}")
        _require(not any(data[40:HEADER_SIZE]), path, "reserved bytes of the header are not zero")
        begins = {STDOUT: header.stdout, STDERR: header.stderr}
        if self.totals is None:
            self.totals, self.lost = dict(begins), dict(begins)
        _require(begins == self.totals, path, f"totals {begins} do not follow from {self.totals}")
        self._entries(path, data, self.totals)
        _require(last or not self.ended, path, "segments follow the end mark")

    def _entries(self, path: Path, data: bytes, totals: dict[int, int]) -> None:
        offset = HEADER_SIZE
        while offset < len(data):
            _require(not self.ended, path, f"bytes follow the end mark at {offset}")
            _require(offset + ENTRY_SIZE <= len(data), path, f"a torn header at {offset}")
            length, kind, _ = decode_entry_header(data, offset)
            start, offset = offset + ENTRY_SIZE, offset + ENTRY_SIZE + length
            where = start - ENTRY_SIZE
            _require(0 < kind <= CURSOR, path, f"unknown kind {kind} at {where}")
            _require(not any(data[where + 5 : where + 8]), path, f"reserved bytes at {where} are not zero")
            _require(length <= MAX_DATA, path, f"{length} bytes of data at {where}")
            _require(offset <= len(data), path, f"a torn entry at {where}")
            self._entry(path, where, kind, data[start:offset], totals)

    def _entry(self, path: Path, where: int, kind: int, data: bytes, totals: dict[int, int]) -> None:
        self.entries += 1
        if kind in NAMES:
            _require(bool(data), path, f"an entry without data at {where}")
            totals[kind] += len(data)
            self.kept[kind] += len(data)
        elif kind == GAP:
            _require(len(data) == ENTRY_SIZE and not any(data[1:8]), path, f"a malformed gap at {where}")
            stream, lost = decode_gap(data)
            _require(stream in NAMES and lost > 0, path, f"a gap of {lost} bytes of stream {stream} at {where}")
            totals[stream] += lost
            self.lost[stream] += lost
        elif kind == END:
            _require(not data, path, "the end mark has data")
            self.ended = True
        else:
            self.cursors += 1


def _require(holds: bool, path: Path, problem: str) -> None:
    if not holds:
        raise StateDamaged(f"{path}: {problem}")
