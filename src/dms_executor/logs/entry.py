"""What a log stream gives on request: entries, and gaps where bytes were lost."""

from __future__ import annotations

from datetime import datetime

import msgspec

from ..types import Stream

__all__ = ["Gap", "LogEntry"]


class LogEntry(msgspec.Struct, frozen=True):
    """What one read of the job's output gave: no line is assumed. `time` is its arrival, aware, UTC."""

    stream: Stream
    time: datetime
    data: bytes


class Gap(msgspec.Struct, frozen=True):
    """`bytes` bytes of `stream` were lost here: the log's cap, a full disk, or a daemon's own rotation."""

    stream: Stream
    bytes: int
