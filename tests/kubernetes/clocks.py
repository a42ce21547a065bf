"""A node whose clock is off: what its init says, as it would say it there."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from datetime import UTC, datetime

__all__ = ["stamped_since", "turned"]

_STARTED, _USAGE = 96, 106  # frames that begin with a time (docs/protocol.md, section 1)


def turned(line: bytes, seconds: float) -> bytes:
    """A line of a log or of a report, written by a clock that is so far ahead."""
    by = int(seconds * 1e9)
    words = line.split(b" ")
    try:
        kind, before, stamp, text = words
        data = base64.b64decode(text, validate=True)
        moved = int(stamp) + by
    except (ValueError, binascii.Error):
        return line
    if kind == b"r":
        data = b"".join(_frames(data, by))
    return b" ".join([kind, before, b"%d" % moved, base64.b64encode(data)])


def stamped_since(line: bytes, text: str) -> bool:
    """Whether a kubelet gives it to who asks for what came since then."""
    words = line.split(b" ")
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return len(words) != 4 or int(words[2]) >= moment.timestamp() * 1e9


def _frames(data: bytes, by: int) -> Iterator[bytes]:
    while len(data) >= 8:
        length, kind = struct.unpack_from("<IB", data)
        frame, data = data[: 8 + length], data[8 + length :]
        if kind in (_STARTED, _USAGE):
            frame = frame[:8] + struct.pack("<Q", struct.unpack_from("<Q", frame, 8)[0] + by) + frame[16:]
        yield frame
