"""A helper for files in a pod: one mode of docs/protocol.md, section 8, of `dms-pod`, by whoever asks for one.

A job may be of its user, and stop it, or be the one whose files it reads: how long it may be silent and how much it may
give are bounded here, for all that use one.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

from ..errors import CopyFailed
from ..supervisor import files
from .conversation import Conversation

__all__ = ["Helper"]

_SILENCE = 120.0  # seconds; a container may have little of a processor
_TOLD = 65536


class Helper:
    """`way`: the conversation, which its asker ends. `mode`: its first word."""

    def __init__(self, way: Conversation, mode: str, *, silence: float = _SILENCE) -> None:
        self.way = way
        way.silence = silence
        self._mode = mode
        self.said = b""
        """What it has told, the first of it."""

    async def take(self, sink: Callable[[bytes], Awaitable[object]] | None = None, most: int | None = None) -> None:
        """All that it gives, to its end. Raises `CopyFailed` for more than `most` bytes, `EngineUnreachable`."""
        count = 0
        while (piece := await self.way.read()) is not None:
            stream, data = piece
            if stream == "stderr":
                self.said = (self.said + data)[:_TOLD]
                continue
            count += len(data)
            if most is not None and count > most:
                raise CopyFailed(f"there is more of it than {most} bytes", errno=errno.EFBIG, mend="Ask for less")
            if sink is not None:
                await sink(data)

    async def ended(self) -> int | None:
        """Its code; None: the connection has ended before."""
        return await self.way.wait()

    def judged(self, code: int | None) -> list[files.Record]:
        """What it told. Raises `CopyFailed`."""
        return files.judged(self._mode, code, self.said)
