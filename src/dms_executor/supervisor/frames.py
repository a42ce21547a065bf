"""Frames of the control protocol (docs/protocol.md, section 1): packing, and a decoder fed with what comes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

__all__ = [
    "ATTACH",
    "ATTACHED",
    "CLOSE",
    "CLOSED",
    "CLOSE_INPUT",
    "CONFIG",
    "CONFIG_MAX",
    "ENDED",
    "ENTER",
    "ERROR",
    "FAILED",
    "GO",
    "GUEST_CLOSE",
    "GUEST_CONFIG",
    "GUEST_DATA_MAX",
    "GUEST_END",
    "GUEST_FRAMES",
    "GUEST_GO",
    "GUEST_INPUT_END",
    "GUEST_RESIZE",
    "GUEST_ROOM",
    "GUEST_STDERR",
    "GUEST_STDIN",
    "GUEST_STDOUT",
    "GUEST_STREAMS_END",
    "HELLO",
    "INIT_BORN",
    "INIT_EXITED",
    "INIT_FAILED",
    "INIT_GO",
    "INIT_HALT",
    "INIT_LEAVE",
    "INIT_SIGNAL",
    "INIT_STARTED",
    "INIT_TERMINAL",
    "OK",
    "OPEN",
    "OPEN_MAX",
    "READY",
    "RESIZE",
    "SIGNAL",
    "STARTED",
    "STATE",
    "STOP",
    "SUSPEND",
    "VERSION",
    "Decoder",
    "ProtocolError",
    "error",
    "pack",
]

VERSION = 1
CONFIG_MAX = 1024 * 1024
_PAYLOAD_MAX = 65536

OPEN_MAX = 4000

CONFIG, GO, STOP, SIGNAL, HELLO, OPEN, ENTER, CLOSE = 1, 2, 3, 4, 5, 6, 7, 8
ATTACH, CLOSE_INPUT, RESIZE, SUSPEND, ATTACHED = 9, 10, 11, 12, 72
READY, STARTED, FAILED, STATE, ENDED, OK, ERROR, CLOSED = 64, 65, 66, 67, 68, 69, 70, 71
INIT_STARTED, INIT_FAILED, INIT_EXITED, INIT_BORN, INIT_HALT = 96, 97, 98, 99, 101
INIT_TERMINAL, INIT_GO, INIT_LEAVE, INIT_SIGNAL = 104, 105, 108, 112
GUEST_STDOUT, GUEST_STDERR, GUEST_STDIN, GUEST_ROOM, GUEST_CONFIG, GUEST_GO = 129, 130, 131, 132, 133, 134
GUEST_END, GUEST_CLOSE, GUEST_RESIZE, GUEST_STREAMS_END, GUEST_INPUT_END = 135, 136, 137, 138, 139
GUEST_DATA_MAX = 32768

_HEADER = struct.Struct("<IBBH")
_SIZES: dict[int, tuple[int, int]] = {
    READY: (16, 16),
    STARTED: (8, 8),
    FAILED: (4, _PAYLOAD_MAX),
    STATE: (28, 28),
    ENDED: (0, _PAYLOAD_MAX),
    OK: (0, 0),
    ERROR: (4, _PAYLOAD_MAX),
    CLOSED: (8, 8),
    ATTACHED: (4, 4),
    INIT_STARTED: (8, 8),
    INIT_FAILED: (4, 4 + 1024),
    INIT_EXITED: (4, 4),
    INIT_BORN: (0, 0),
    INIT_TERMINAL: (0, 0),
}
GUEST_FRAMES: dict[int, tuple[int, int]] = {
    **{kind: _SIZES[kind] for kind in (INIT_STARTED, INIT_FAILED, INIT_EXITED)},
    GUEST_STDOUT: (1, GUEST_DATA_MAX),
    GUEST_STDERR: (1, GUEST_DATA_MAX),
    GUEST_ROOM: (4, 4),
    GUEST_END: (0, 0),
    GUEST_STREAMS_END: (0, 0),
    GUEST_INPUT_END: (0, 0),
}
"""What a further command says on a channel of its own (sections 10 and 11), by the least and the most of a payload."""


class ProtocolError(Exception):
    """The other side does not speak this protocol; its connection is closed."""


def pack(kind: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return _HEADER.pack(len(payload), kind, 0, 0) + payload


def error(payload: bytes) -> tuple[int, str]:
    """errno and text of a FAILED or ERROR payload."""
    return struct.unpack_from("<I", payload)[0], payload[4:].decode(errors="replace")


class Decoder:
    """Joins what comes into frames. Holds no memory between frames. `sizes`: of the types that may come."""

    __slots__ = ("_rest", "_sizes")

    def __init__(self, sizes: Mapping[int, tuple[int, int]] = _SIZES) -> None:
        self._rest = b""
        self._sizes = sizes

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Type and payload of each frame that is complete now. Raises `ProtocolError`."""
        self._rest += data
        while len(self._rest) >= _HEADER.size:
            length, kind, flags, channel = _HEADER.unpack_from(self._rest)
            least, most = self._sizes.get(kind, (1, 0))
            if flags or channel or not least <= length <= most:
                raise ProtocolError(f"frame of type {kind} with {length} bytes")
            end = _HEADER.size + length
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[_HEADER.size : end], self._rest[end:]
            yield kind, payload
