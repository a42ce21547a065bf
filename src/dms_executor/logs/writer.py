"""The writer of a log for engines that keep none of their own; the shim writes the same bytes. Blocking."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ..types import Stream
from .format import (
    CURSOR,
    END,
    ENTRY_SIZE,
    GAP,
    HEADER_SIZE,
    KINDS,
    MAX_DATA,
    NAMES,
    STDERR,
    STDOUT,
    SegmentHeader,
    encode_entry_header,
    encode_gap,
    encode_segment_header,
    segment_name,
)
from .segments import Segment, log_folder, marks, segment_numbers

__all__ = ["LogWriter"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SMALLEST_SEGMENT = 256
_logger = logging.getLogger("dms_executor.logs")


class LogWriter:
    """Appends to `folder/log`; holds `flock` on `log/lock` as long as it is open. For one thread at a time.

    A full disk never raises: what could not be written is counted, and a gap is written as soon as there is room.
    Other errors of the disk are raised as OSError.
    """

    def __init__(self, log: Path, lock: int, cap: int, segment: int) -> None:
        self._log = log
        self._lock = lock
        self._cap = cap
        self._segment_size = max(min(segment, cap // 4), _SMALLEST_SEGMENT)
        self._fd = -1
        self._number = 0
        self._size = 0
        self._others: dict[int, int] = {}
        self._totals = {STDOUT: 0, STDERR: 0}
        self._lost = {STDOUT: 0, STDERR: 0}
        self._cursor: bytes | None = None
        self._at_cursor = dict(self._totals)
        self.ended = False

    @classmethod
    def open(cls, folder: Path, cap: int, segment: int) -> LogWriter:
        """Opens the log of the execution's folder `folder`, going on where a crashed writer stopped.

        `cap`: bytes of all segments together, `segment`: bytes of one (at most `cap` / 4; at least 256, and the last
        one is always kept). A torn entry of a crashed writer is cut off: no reader was given it. Raises
        BlockingIOError while another writer has the log open, StateTooNew for a newer format.
        """
        log = log_folder(folder)
        log.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(log / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        writer = cls(log, lock, cap, segment)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer._resume()
        except BaseException:
            writer.close()
            raise
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def last_cursor(self) -> bytes | None:
        """The last cursor in the log; None where none is kept."""
        return self._cursor

    def after_cursor(self) -> dict[Stream, int]:
        """Bytes of each stream (lost ones included) logged after the last cursor.

        Output that is pulled again from that cursor begins with just these: leave them out.
        """
        return {NAMES[kind]: self._totals[kind] - self._at_cursor[kind] + self._lost[kind] for kind in NAMES}

    def write(self, stream: Stream, stamp_ns: int, data: bytes | memoryview) -> None:
        """Appends what one read of `stream` gave, arrived at `stamp_ns` since the epoch. Any length."""
        kind, view = KINDS[stream], memoryview(data)
        largest = min(MAX_DATA, self._segment_size - HEADER_SIZE - ENTRY_SIZE)
        for start in range(0, len(view), largest):
            piece = view[start : start + largest]
            if self._settle(stamp_ns, len(piece)) and self._append(kind, stamp_ns, piece):
                self._totals[kind] += len(piece)
            else:
                self._lost[kind] += len(piece)

    def gap(self, stream: Stream, n: int, stamp_ns: int | None = None) -> None:
        """Notes that `n` bytes of `stream` were lost here."""
        self._lost[KINDS[stream]] += n
        self._settle(time.time_ns() if stamp_ns is None else stamp_ns)

    def cursor(self, data: bytes, stamp_ns: int | None = None) -> None:
        """Notes `data` as the place from which the output after this point can be pulled again.

        Write one at least once a segment, else the cap takes the last. On a full disk it is left out.
        Raises ValueError over 128 bytes.
        """
        if len(data) > _SMALLEST_SEGMENT // 2:
            raise ValueError(f"a cursor has at most {_SMALLEST_SEGMENT // 2} bytes, not {len(data)}")
        stamp = time.time_ns() if stamp_ns is None else stamp_ns
        if self._settle(stamp) and self._append(CURSOR, stamp, memoryview(data)):
            self._cursor, self._at_cursor = bytes(data), dict(self._totals)

    def end(self, stamp_ns: int | None = None) -> bool:
        """Writes the end mark; nothing may be written after it. False: the disk is full, try again later."""
        stamp = time.time_ns() if stamp_ns is None else stamp_ns
        self.ended = self.ended or (self._settle(stamp) and self._append(END, stamp, memoryview(b"")))
        if not self.ended:
            _logger.warning("%s: no room for the end mark; lost: %s", self._log, self._lost)
        return self.ended

    def sync(self) -> None:
        """Waits until what was written survives a power cut."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Gives lock and descriptors back. Idempotent; writes no end mark."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _settle(self, stamp: int, following: int = 0) -> bool:
        """Writes the gaps that are owed, if `following` bytes of data fit after them. False: there is still no room."""
        if self.ended:
            raise ValueError("the log has its end mark: nothing may follow")
        if following and any(self._lost.values()) and not self._has_room(following):
            # A gap for each piece that is dropped would eat the room that the end mark needs.
            return False
        for kind, lost in self._lost.items():
            if not lost:
                continue
            if not self._append(GAP, stamp, memoryview(encode_gap(kind, lost))):
                return False
            self._totals[kind] += lost
            self._lost[kind] = 0
        return True

    def _has_room(self, size: int) -> bool:
        disk = os.statvfs(self._log)
        return disk.f_bavail * disk.f_frsize > size + 4 * ENTRY_SIZE + HEADER_SIZE

    def _append(self, kind: int, stamp: int, data: memoryview) -> bool:
        """One entry by one call. False: the disk is full, and nothing of it was left behind."""
        size = ENTRY_SIZE + len(data)
        if (self._fd < 0 or self._size + size > self._segment_size) and not self._roll(stamp):
            return False
        self._make_room(size)
        try:
            written = os.writev(self._fd, (encode_entry_header(kind, stamp, len(data)), data))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            written = 0
        if written < size:
            os.ftruncate(self._fd, self._size)
            return False
        self._size += size
        return True

    def _roll(self, stamp: int) -> bool:
        """Begins the next segment, whose header is there before its name is. False: the disk is full."""
        number = self._number + 1
        self._make_room(HEADER_SIZE)
        name, temporary = self._log / segment_name(number), self._log / "segment.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        header = SegmentHeader(number, self._totals[STDOUT], self._totals[STDERR], stamp)
        try:
            fd = os.open(temporary, flags, 0o600)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        if not _publish(fd, encode_segment_header(header), temporary, name):
            return False
        if self._fd >= 0:
            self._others[self._number] = self._size
            os.close(self._fd)
        self._fd, self._number, self._size = fd, number, HEADER_SIZE
        return self._carry_cursor(stamp)

    def _carry_cursor(self, stamp: int) -> bool:
        """Repeats a cursor that still holds, so that the cap does not take the last one."""
        if self._cursor is None or self._totals != self._at_cursor:
            return True
        return self._append(CURSOR, stamp, memoryview(self._cursor))

    def _make_room(self, size: int) -> None:
        while self._others and sum(self._others.values()) + self._size + size > self._cap:
            oldest = min(self._others)
            (self._log / segment_name(oldest)).unlink(missing_ok=True)
            del self._others[oldest]

    def _resume(self) -> None:
        numbers = segment_numbers(self._log)
        while numbers and not self._reopen(numbers[-1]):
            # Its header was lost in a power cut, and all after it: the number is used again.
            (self._log / segment_name(numbers.pop())).unlink()
        self._others = {number: self._stat_size(number) for number in numbers[:-1]}
        for number in reversed(numbers[:-1]):
            if self._cursor is not None:
                break
            self._find_cursor(number)

    def _stat_size(self, number: int) -> int:
        return (self._log / segment_name(number)).stat().st_size

    def _reopen(self, number: int) -> bool:
        segment = Segment.open(self._log, number)
        if segment is None:
            return False
        try:
            self._size = self._replay(segment)
        finally:
            segment.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._log / segment_name(number), flags)
        self._number = number
        os.ftruncate(self._fd, self._size)
        return True

    def _replay(self, segment: Segment) -> int:
        """Takes totals, cursor and end mark from the newest segment; gives the end of its last whole entry."""
        stop = HEADER_SIZE
        self._totals = dict(zip((STDOUT, STDERR), segment.before, strict=True))
        for mark in marks(segment.fd):
            stop = mark.stop
            self._totals[STDOUT] += mark.stdout
            self._totals[STDERR] += mark.stderr
            self.ended = mark.kind == END
            if mark.kind == CURSOR:
                self._cursor = os.pread(segment.fd, mark.stop - mark.offset - ENTRY_SIZE, mark.offset + ENTRY_SIZE)
                self._at_cursor = dict(self._totals)
        return stop

    def _find_cursor(self, number: int) -> None:
        """Takes the last cursor of an older segment."""
        segment = Segment.open(self._log, number)
        if segment is None:
            return
        stdout, stderr = segment.before
        try:
            for mark in marks(segment.fd):
                stdout, stderr = stdout + mark.stdout, stderr + mark.stderr
                if mark.kind == CURSOR:
                    size = mark.stop - mark.offset - ENTRY_SIZE
                    self._cursor = os.pread(segment.fd, size, mark.offset + ENTRY_SIZE)
                    self._at_cursor = {STDOUT: stdout, STDERR: stderr}
        finally:
            segment.close()


def _publish(fd: int, header: bytes, temporary: Path, name: Path) -> bool:
    """Writes the header and gives the file its name; else closes it. False: the disk is full."""
    whole = False
    try:
        whole = os.write(fd, header) == len(header)
        if whole:
            temporary.rename(name)
    except OSError as error:
        whole = False
        if error.errno not in _FULL:
            raise
    finally:
        if not whole:
            os.close(fd)
    return whole
