"""The part of a log that a `LogStreamRequest` asks for, read synchronously."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..errors import InvalidRequest
from ..types import LogStreamRequest
from .backward import Start, end_of_log, last_lines
from .format import KINDS, RawEntry
from .reader import LogReader
from .segments import log_folder, segment_numbers
from .selection import Selection

__all__ = ["Excerpt", "check_request", "since_stamp"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"\.(\d{6})(\d{1,3})\d*")


def since_stamp(since: str | float | None, now: int) -> int | None:
    """The stamp in ns that `since` means: an aware ISO time, or seconds back from `now` (ns).

    Raises InvalidRequest for anything else.
    """
    if since is None:
        return None
    if isinstance(since, str):
        return _iso_stamp(since)
    if isinstance(since, bool) or not math.isfinite(since) or since < 0:
        raise InvalidRequest(f"{since!r} is no number of seconds back", path="$.since")
    return now - int(since * 1e9)


def _iso_stamp(since: str) -> int:
    fraction = _FRACTION.search(since)
    try:
        time = datetime.fromisoformat(_FRACTION.sub(r".\1", since))
    except ValueError as error:
        raise InvalidRequest(f"{since!r} is no ISO 8601 time", path="$.since") from error
    if time.tzinfo is None:
        raise InvalidRequest(f"{since!r} has no time zone", path="$.since", mend="Append Z or an offset")
    nanoseconds = int(fraction[2].ljust(3, "0")) if fraction else 0
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000 + nanoseconds


def check_request(request: LogStreamRequest) -> None:
    """Raises InvalidRequest, naming the field, where a request makes no sense."""
    if not request.streams or not KINDS.keys() >= set(request.streams):
        raise InvalidRequest("name stdout, stderr or both", path="$.streams")
    if request.last is not None and request.last < 0:
        raise InvalidRequest(f"{request.last} is no number of lines", path="$.last")
    since_stamp(request.since, 0)


class Excerpt:
    """An opened part of `folder/log`: `read` gives its entries in order. `close` it.

    With `tail` nothing before the call is given, so `last` has no effect then. `since` applies before `last`.
    """

    def __init__(self, reader: LogReader, selection: Selection) -> None:
        self._reader = reader
        self._selection = selection

    @classmethod
    def open(cls, folder: Path, request: LogStreamRequest, *, now: int, final: bool, mid_line: bool = False) -> Excerpt:
        """`now` in ns since the epoch. `final`: nobody writes the log any more. `mid_line`: `tail` may begin in a line.

        Without `follow`, what is written after this call is not given. Raises InvalidRequest, StateTooNew.
        """
        check_request(request)
        kinds = frozenset(KINDS[stream] for stream in request.streams)
        since = since_stamp(request.since, now)
        start: Start | None = None
        if request.tail:
            start = end_of_log(folder, kinds, torn=final)
            start = start._replace(partial=frozenset()) if mid_line else start
        elif request.last is not None:
            start = last_lines(folder, request.last, kinds, since=since, torn=final)
        limit = None if request.follow or (final and not request.tail) else _limit(folder, start)
        reader = LogReader(folder, start.position if start else None, limit=limit)
        reader.ended = limit == (0, 0)
        return cls(reader, Selection(kinds, since, start))

    @property
    def ended(self) -> bool:
        """There is nothing after what was read."""
        return self._reader.ended

    def read(self, *, final: bool) -> tuple[list[RawEntry], bool]:
        """The next wanted entries of at most one block, and whether the log had anything more at all.

        `final` and the errors are those of `LogReader.read`.
        """
        batch = self._reader.read(final=final)
        return self._selection.take(batch), bool(batch.entries)

    def close(self) -> None:
        """Gives the descriptor back."""
        self._reader.close()


def _limit(folder: Path, start: Start | None) -> tuple[int, int]:
    """The end of the log now, as (segment, offset); (0, 0) where there is no log."""
    if start is not None:
        return (start.end.segment, start.end.offset) if start.end else (0, 0)
    log = log_folder(folder)
    for number in reversed(segment_numbers(log)):
        try:
            return number, (log / f"{number:010d}").stat().st_size
        except FileNotFoundError:
            continue
    return 0, 0
