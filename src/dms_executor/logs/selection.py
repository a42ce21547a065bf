"""Which entries of a log a request asks for: its streams, a time, a beginning, the next line's start."""

from __future__ import annotations

from .backward import Start
from .format import GAP, STDERR, RawEntry, Totals, decode_gap
from .reader import Batch

__all__ = ["Selection"]

_BOTH = frozenset({1, 2})


class Selection:
    """Takes from each batch the entries of `kinds` that arrived at or after `since`, from `start` on."""

    def __init__(self, kinds: frozenset[int], since: int | None = None, start: Start | None = None) -> None:
        self._kinds = kinds
        self._since = since
        self._start: Totals | None = start.totals if start else None
        self._partial = set(start.partial) if start else set()

    def take(self, batch: Batch) -> list[RawEntry]:
        """The wanted entries of the next batch."""
        entries = batch.entries
        if self._start is not None:
            entries = self._after_start(entries, batch.before, self._start)
        if self._kinds != _BOTH:
            entries = [entry for entry in entries if _stream(entry) in self._kinds]
        since = self._since
        if since is not None:
            entries = [entry for entry in entries if entry[1] >= since]
        return self._whole_lines(entries) if self._partial else entries

    def _after_start(self, entries: list[RawEntry], before: Totals, start: Totals) -> list[RawEntry]:
        at = [0, *before]
        kept: list[RawEntry] = []
        for entry in entries:
            kind, stamp, data = entry
            stream, size = (kind, len(data)) if kind <= STDERR else decode_gap(data)
            skip = start[stream - 1] - at[stream]
            at[stream] += size
            if skip <= 0:
                kept.append(entry)
            elif skip < size:
                kept.append(entry if kind == GAP else (kind, stamp, data[skip:]))
        if at[1] >= start[0] and at[2] >= start[1]:
            self._start = None
        return kept

    def _whole_lines(self, entries: list[RawEntry]) -> list[RawEntry]:
        """Drops the rest of a line that had begun before the call."""
        kept: list[RawEntry] = []
        for entry in entries:
            kind, stamp, data = entry
            if kind not in self._partial:
                kept.append(entry)
                continue
            newline = bytes(data).find(b"\n")
            if newline < 0:
                continue
            self._partial.discard(kind)
            if newline + 1 < len(data):
                kept.append((kind, stamp, data[newline + 1 :]))
        return kept


def _stream(entry: RawEntry) -> int:
    return entry[0] if entry[0] <= STDERR else decode_gap(entry[2])[0]
