"""Lines with their times before them, as `docker logs --timestamps` shows them."""

from __future__ import annotations

import time

from .format import MAX_DATA, STDERR, RawEntry

__all__ = ["StampedLines", "rfc3339"]


def rfc3339(stamp: int) -> str:
    """`stamp` (ns since the epoch) as UTC with nine digits: 2026-01-02T03:04:05.123456789Z."""
    seconds, nanoseconds = divmod(stamp, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


class StampedLines:
    """Joins the lines of each stream across entries and puts before each the time at which its first byte arrived.

    A line is held until it is whole, so that lines of two streams never run into each other; one of more than
    1 MiB is given on in pieces all the same, since memory stays flat.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[int, list[bytes], int]] = {}
        self._begun: set[int] = set()
        self._prefix = (-1, b"")

    def feed(self, entries: list[RawEntry]) -> bytes:
        """What can be shown once `entries` have come. Gaps are passed over."""
        shown: list[bytes] = []
        for kind, stamp, data in entries:
            if kind <= STDERR and data:
                self._take(shown, kind, stamp, bytes(data))
        return b"".join(shown)

    def flush(self) -> bytes:
        """The unfinished lines, at the end."""
        shown: list[bytes] = []
        for kind in sorted(self._held, key=lambda kind: self._held[kind][0]):
            self._release(shown, kind)
        return b"".join(shown)

    def _take(self, shown: list[bytes], kind: int, stamp: int, data: bytes) -> None:
        first, newline, rest = data.partition(b"\n")
        if not newline:
            self._hold(shown, kind, stamp, data)
            return
        if kind in self._held or kind in self._begun:
            self._release(shown, kind)
            self._begun.discard(kind)
            shown += (first, newline)
        else:
            shown += (self._time(stamp), first, newline)
        whole, newline, rest = rest.rpartition(b"\n")
        if newline:
            prefix = self._time(stamp)
            shown += (prefix, whole.replace(b"\n", b"\n" + prefix), newline)
        if rest:
            self._hold(shown, kind, stamp, rest)

    def _hold(self, shown: list[bytes], kind: int, stamp: int, data: bytes) -> None:
        if kind in self._begun:
            shown.append(data)
            return
        began, pieces, size = self._held.get(kind, (stamp, [], 0))
        pieces.append(data)
        self._held[kind] = began, pieces, size + len(data)
        if size + len(data) > MAX_DATA:
            self._release(shown, kind)
            self._begun.add(kind)

    def _release(self, shown: list[bytes], kind: int) -> None:
        if kind in self._held:
            began, pieces, _ = self._held.pop(kind)
            shown += (self._time(began), *pieces)

    def _time(self, stamp: int) -> bytes:
        if self._prefix[0] != stamp:
            self._prefix = stamp, f"{rfc3339(stamp)} ".encode()
        return self._prefix[1]
