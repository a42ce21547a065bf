"""Times as the journal stores them: integers, nanoseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["instant", "moment", "nanoseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(stamp: datetime | None) -> int | None:
    """A time as nanoseconds since the epoch (microseconds are all that datetime has)."""
    if stamp is None:
        return None
    delta = stamp - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000


def moment(stamp: int | None) -> datetime | None:
    """The same of a time that may be missing."""
    return None if stamp is None else instant(stamp)


def instant(stamp: int) -> datetime:
    """Nanoseconds since the epoch as an aware time."""
    return datetime.fromtimestamp(stamp // 10**9, UTC).replace(microsecond=stamp % 10**9 // 1000)
