"""Tasks that outlive the call that began them: each has an owner that awaits it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import ExecutorClosed

__all__ = ["Tasks"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Tasks:
    """Owns tasks until they end or `aclose` ends them. A task that fails unawaited is logged, never lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begins a task that this object owns."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def complete(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Awaits work that goes on to its end even when its asker is cancelled.

        Raises `ExecutorClosed` where `aclose` ended it: its asker was not cancelled, and must not look so.
        """
        task = self.spawn(work, name)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ExecutorClosed("the executor was closed", mend="Open it again; running jobs go on") from None
            raise

    async def aclose(self, within: float) -> None:
        """Cancels what is left and waits for it, `within` seconds at most."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("%s ended with %r", task.get_name(), task.exception())
