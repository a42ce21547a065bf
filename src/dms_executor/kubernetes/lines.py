"""A job's output and its init's report out of a pod's log, whose lines the init wrote (docs/protocol.md, section 3).

A line is kind, bytes of that stream before it, stamp, and base64: `o` stdout, `e` stderr, `r` a frame of the report. So
both streams are apart and exact whatever the node's runtime makes of lines, and what the node has thrown away shows as
a jump in the count.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ..engine import Chunk
from ..supervisor.said import Report
from ..types import Stream

__all__ = ["TAIL", "Lines", "since"]

TAIL = 8
"""Lines at the end of a log that has ended in which its init says all that a result is made of."""

_STREAMS: dict[bytes, Stream] = {b"o": "stdout", b"e": "stderr"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 1 << 20
_MARGIN = timedelta(seconds=2)


class Lines:
    """Takes a log apart. `cursor`: how much of either stream was given before, and when the last of it was written."""

    def __init__(self, cursor: bytes | None = None) -> None:
        out, err, self._stamp = map(int, (cursor or b"0 0 0").split())
        self._given: dict[Stream, int] = {"stdout": out, "stderr": err}
        self._rest = b""
        self.report = Report()
        self.is_empty = True
        """Whether nothing at all has come: a node has begun a new file, since an init's first word is its birth."""
        self.strange = ""
        """The last line that no init of ours wrote: a runtime's complaint."""

    def take(self, piece: bytes) -> Iterator[Chunk]:
        """What is new in it."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST:
            self._rest = b""
        self.is_empty = self.is_empty and not lines and not self._rest
        for line in lines:
            chunk = self._chunk(line)
            if chunk is not None:
                yield chunk

    def _chunk(self, line: bytes) -> Chunk | None:
        words = line.split(b" ")
        try:
            kind, before, stamp = words[0], int(words[1]), int(words[2])
            data = base64.b64decode(words[3], validate=True)
        except (IndexError, ValueError, binascii.Error):
            self.strange = line.decode("utf-8", "replace")[:500] or self.strange
            return None
        if kind == b"r":
            self.report.take(data)
            return None
        if kind not in _STREAMS:
            return None
        stream = _STREAMS[kind]
        given = self._given[stream]
        lost = {stream: before - given} if before > given else {}
        data = data[max(given - before, 0) :]
        if not data:
            return None
        self._given[stream] = max(before, given) + len(data)
        self._stamp = stamp  # of the last one, be it the older: a clock may be set back
        moment = _EPOCH + timedelta(microseconds=stamp // 1000)
        return Chunk(stream=stream, time=moment, data=data, cursor=self.cursor, lost=lost)

    @property
    def tells_of_a_job(self) -> bool:
        """Whether it ran: the init has said so, or there is output of it, be it cut off behind what was read."""
        began = self._rest[:2] in (b"o ", b"e ") or any(self._given.values())
        return began or self.report.started_at is not None

    def end(self, wrote: tuple[int, int] | None, moment: datetime) -> Chunk | None:
        """What is missing of it, if no more comes. `wrote`: what there was of stdout and stderr; None: nobody knows."""
        if wrote is None:
            lost: dict[Stream, int] = dict.fromkeys(self._given, 1)
        else:
            behind = zip(self._given, wrote, strict=True)
            lost = {stream: count - self._given[stream] for stream, count in behind if count > self._given[stream]}
        for stream, count in lost.items():
            self._given[stream] += count
        return Chunk(stream="stdout", time=moment, data=b"", cursor=self.cursor, lost=lost) if lost else None

    @property
    def cursor(self) -> bytes:
        """Resumes after all that was given."""
        return b"%d %d %d" % (self._given["stdout"], self._given["stderr"], self._stamp)


def since(cursor: bytes | None) -> str:
    """From when on a log has to be read again: whole seconds, by the node's clock, as the stamps are. Empty: all."""
    stamp = int((cursor or b"0").split()[-1])
    moment = _EPOCH + timedelta(microseconds=stamp // 1000) - _MARGIN
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if stamp else ""
