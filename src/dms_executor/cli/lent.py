"""What a job in the foreground gets of ours: stdin, and the terminal that it is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from .keys import DetachKeys

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import ExecutionRequest
    from .keyboard import Keyboard

__all__ = ["Lent"]


class Lent:
    """`reads`: our stdin is the job's. `keys`: those that leave a job on a terminal."""

    def __init__(self, *, reads: bool, keys: DetachKeys) -> None:
        self.reads = reads
        self._keys = keys

    def sized(self, request: ExecutionRequest, *, detach: bool) -> ExecutionRequest:
        """The request with our terminal's size. Raises `InvalidRequest` where we should have a terminal and do not."""
        if not request.tty or detach:
            return request
        import msgspec

        from .keyboard import refuse_no_terminal, terminal_size

        if self.reads:
            refuse_no_terminal()
        size = terminal_size()
        return request if size is None else msgspec.structs.replace(request, tty_size=size)

    @contextlib.asynccontextmanager
    async def to(self, executor: Executor, request: ExecutionRequest) -> AsyncIterator[Keyboard | None]:
        """Lends what is asked for to a job that has been started; None where there is nothing to lend, or no job."""
        from ..errors import ExecutionNotRunning
        from .keyboard import Keyboard

        if not request.tty and not (self.reads and request.stdin_open):
            yield None
            return
        try:
            session = await executor.attach(request.execution_id)
        except ExecutionNotRunning:  # it was quicker
            yield None
            return
        async with session:
            with Keyboard(session, reads=self.reads, tty=request.tty, keys=self._keys) as keyboard:
                yield keyboard
