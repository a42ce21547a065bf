"""`Live`: an execution that this process brings up or watches, while it does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..engine import Engine, Execution, Handle, Prepared
from ..errors import ExecutorError
from ..journal import Intent
from ..types import ExecutionResult, ExecutionStatus

if TYPE_CHECKING:
    from ..supervisor.keeper import Keeper

__all__ = ["Live"]


class Live:
    """What this process knows of one execution that is not finished. `finished` is set once, with its outcome.

    `done` is set when this process has nothing more to do for it.
    """

    __slots__ = (
        "_abort",
        "done",
        "ended",
        "engine",
        "failure",
        "finished",
        "handle",
        "intent",
        "keeper",
        "prepared",
        "progress",
        "result",
        "stale",
        "status",
        "unseen",
        "x",
    )

    def __init__(self, x: Execution, engine: Engine, status: ExecutionStatus = ExecutionStatus.PENDING) -> None:
        self.x = x
        self.engine = engine
        self.status = status
        self.prepared = Prepared()
        self.handle: Handle | None = None
        self.intent: Intent | None = None
        self.keeper: Keeper | None = None
        self.stale = False
        self.unseen = False  # followed from what is recorded: its engine did not tell of it when it was taken over
        self.ended = False
        self.result: ExecutionResult | None = None
        self.failure: ExecutorError | None = None
        self.finished = asyncio.Event()
        self.done = asyncio.Event()
        self._abort: asyncio.Timeout | None = None

    def preparing(self, within: float) -> asyncio.Timeout:
        """The scope of the preparation: it ends by its own deadline, or by `abort`."""
        self._abort = asyncio.timeout(within)
        return self._abort

    def prepared_now(self) -> None:
        """The preparation is over: `abort` is only noted from here on."""
        self._abort = None

    def abort(self, intent: Intent) -> None:
        """Stops a preparation; the first reason stands."""
        self.intent = self.intent or intent
        if self._abort is not None and not self._abort.expired():
            self._abort.reschedule(asyncio.get_running_loop().time())

    def conclude(self, result: ExecutionResult | None, failure: ExecutorError | None = None) -> None:
        """Hands the outcome to every waiter."""
        self.result, self.failure = result, failure
        if result is not None:
            self.status = result.status
        self.finished.set()
