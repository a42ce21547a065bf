"""What other processes of the same state folder commit, and when one of them ends.

After each commit the writer bumps the file `notify`; this process's one inotify instance has a watch on it from the
first wait on. A pidfd on every other owner that matters tells when it dies, so that a death between a commit and its
bump loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .journal import Journal, Owner
from .journal.files import os_error
from .journal.journal import NOTIFY
from .logs.inotify import Subscription, Watcher
from .processes import start_time

__all__ = ["Changes"]

_log = logging.getLogger(__name__)


class Changes:
    """Wakes whoever waits for the journal to change, by whichever process."""

    def __init__(self, state_dir: Path, journal: Journal) -> None:
        self._state_dir = state_dir
        self._journal = journal
        self._pulse: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._pidfds: dict[str, int] = {}
        self.watcher = Watcher()
        self.owner_ended: Callable[[], Awaitable[Any]] = _nothing
        self._ended = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether this process listens to the others."""
        return self._task is not None

    def listen(self) -> None:
        """Begins to listen; idempotent."""
        if self._task is None:
            subscription = self.watcher.watch(self._state_dir / NOTIFY)
            self._task = asyncio.create_task(self._listen(subscription), name="changes")

    def next(self) -> asyncio.Future[None]:
        """A future that the next change fulfils. Take it, then read, then await it."""
        self.listen()
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.get_running_loop().create_future()
        # Each waiter has one of its own: who is cancelled while it awaits it must not end the others' waiting.
        return asyncio.shield(self._pulse)

    def committed(self) -> None:
        """This process committed a change itself."""
        if self._pulse is not None and not self._pulse.done():
            self._pulse.set_result(None)

    async def mind(self, owner: Owner) -> None:
        """Watches for the end of another process that owns executions; idempotent."""
        if owner.uuid in self._pidfds:
            return
        try:
            pidfd = os.pidfd_open(owner.pid)
        except ProcessLookupError:
            self._ended.set()
            return
        except OSError as error:
            raise os_error(error, self._state_dir) from error
        if await asyncio.to_thread(start_time, owner.pid) != owner.start_time or owner.uuid in self._pidfds:
            os.close(pidfd)
            self._ended.set()
            return
        self._pidfds[owner.uuid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._owner_gone, owner.uuid)

    async def aclose(self) -> None:
        """Stops listening. Idempotent."""
        for uuid in list(self._pidfds):
            self._forget(uuid)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self.watcher.close()

    def _owner_gone(self, uuid: str) -> None:
        self._forget(uuid)
        self._ended.set()

    def _forget(self, uuid: str) -> None:
        pidfd = self._pidfds.pop(uuid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    async def _listen(self, subscription: Subscription) -> None:
        changed = asyncio.ensure_future(subscription.wait())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            while True:
                await asyncio.wait({changed, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    self._ended.clear()
                    await self._settle_ended()
                    ended = asyncio.ensure_future(self._ended.wait())
                if changed.done():
                    subscription.clear()
                    changed = asyncio.ensure_future(subscription.wait())
                self.committed()
        finally:
            changed.cancel()
            ended.cancel()
            subscription.close()

    async def _settle_ended(self) -> None:
        try:
            await self.owner_ended()
        except Exception:  # noqa: BLE001, whatever it was: all who wait would wait for ever if nobody listened any more
            _log.exception("what an ended process left is not settled yet")


async def _nothing() -> None:
    return None
