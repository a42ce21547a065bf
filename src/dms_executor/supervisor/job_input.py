"""A client's end of a job's own stdin, or of its terminal: a pipe, of which something else passes on what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ..errors import ExecutionNotRunning
from .pipes import Pipes

__all__ = ["JobInput"]

_END_OF_INPUT = b"\x04"  # Ctrl-D, by which a terminal says it
_PATIENCE = 2.0  # seconds for a terminal that is full to take that


class JobInput:
    """`pipe`: non-blocking, this object's to close; None: no input is open."""

    def __init__(self, pipe: int | None) -> None:
        self._pipes = Pipes(pipe, {}, drain=0)
        self._ending: asyncio.Task[None] | None = None
        self.is_terminal = False

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where the job has no open input (any more)."""
        try:
            await self._pipes.write(data)
        except ExecutionNotRunning:
            raise ExecutionNotRunning("the job's input is closed, or was never open") from None

    def end(self, tell: Callable[[], None]) -> None:
        """Of a terminal what its user types for that; else nothing more can be written, and `tell` says so."""
        if not self.is_terminal:
            self._pipes.close_stdin()
            tell()
        elif self._ending is None or self._ending.done():
            self._ending = asyncio.get_running_loop().create_task(self._type_end(), name="end of a terminal's input")

    async def aclose(self) -> None:
        """Idempotent. What was written still counts."""
        if self._ending is not None:
            await asyncio.wait([self._ending], timeout=_PATIENCE)
            self._ending.cancel()
        self._pipes.close()

    async def _type_end(self) -> None:
        with contextlib.suppress(ExecutionNotRunning):
            await self._pipes.write(_END_OF_INPUT)
