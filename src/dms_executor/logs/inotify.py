"""One inotify instance for an event loop, shared by all who wait for a file or folder to change. See inotify(7)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

__all__ = ["APPEARED", "CHANGED", "Subscription", "Wakeups", "Watcher"]

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x2, 0x80, 0x100, 0x400, 0x800
_IN_Q_OVERFLOW, _IN_IGNORED, _IN_MASK_ADD = 0x4000, 0x8000, 0x20000000
APPEARED = _IN_CREATE | _IN_MOVED_TO | _IN_DELETE_SELF | _IN_MOVE_SELF
"""Mask: something was made in the folder or moved into it, or the folder itself went."""
CHANGED = APPEARED | _IN_MODIFY
"""Mask: that, or a file (the watched one, or one in the watched folder) was written to."""

_EVENT = struct.Struct("iIII")
_POLL = 0.1
_USED_UP = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ENOSYS})
_logger = logging.getLogger("dms_executor.logs")


class Subscription:
    """One waiter's share of a watch. It may wake without cause: look again. `close` it."""

    def __init__(self, watcher: Watcher, wd: int | None, mask: int) -> None:
        self._watcher = watcher
        self._event = asyncio.Event()
        self.wd = wd
        self.mask = mask
        self.gone = False

    async def wait(self) -> None:
        """Returns once something happened since the last `clear`. Harmless to cancel."""
        await self._event.wait()

    def clear(self) -> None:
        """Forgets what happened so far: call it before looking."""
        self._event.clear()

    def notify(self) -> None:
        """Wakes the waiter."""
        self._event.set()

    def close(self) -> None:
        """Ends the subscription and wakes its waiter. Idempotent."""
        self._event.set()
        self._watcher.forget(self)


class Wakeups(Protocol):
    """What tells a follower that there may be something new; `Watcher` is one."""

    def watch(self, path: Path, mask: int = CHANGED) -> Subscription:
        """Subscribes to `path`. Raises FileNotFoundError or NotADirectoryError where it is not there."""
        ...


class Watcher:
    """The inotify instance of one event loop, opened at the first `watch`; `close` it in that loop.

    Subscriptions to one path share one watch. Where the kernel has no more instances or watches to give, a
    subscription is woken every 100 ms instead, and one warning is logged.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._libc: _Libc | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[int, set[Subscription]] = {}
        self._polled: set[Subscription] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def watch(self, path: Path, mask: int = CHANGED) -> Subscription:
        """Subscribes to changes of the file or folder `path`; `mask` as in inotify(7).

        To be called in the running loop. Raises FileNotFoundError, NotADirectoryError or PermissionError where
        `path` cannot be watched.
        """
        self._loop = asyncio.get_running_loop()
        try:
            wd = self._add(path, mask)
        except OSError as error:
            if error.errno not in _USED_UP:
                raise
            return self._poll(path, mask, error)
        subscription = Subscription(self, wd, mask)
        self._watches.setdefault(wd, set()).add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drops a subscription, and the watch with its last one. `Subscription.close` calls it."""
        self._polled.discard(subscription)
        if subscription.wd is None:
            return
        sharers = self._watches.get(subscription.wd, set())
        sharers.discard(subscription)
        if not sharers and self._watches.pop(subscription.wd, None) is not None and self._libc is not None:
            self._libc.remove(self._fd, subscription.wd)

    def close(self) -> None:
        """Wakes all waiters and gives the instance back. Idempotent."""
        for subscription in [*self._polled, *(each for sharers in self._watches.values() for each in sharers)]:
            subscription.gone = True
            subscription.notify()
        self._watches.clear()
        self._polled.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _add(self, path: Path, mask: int) -> int:
        if self._libc is None:
            self._libc = _Libc()
        if self._fd < 0:
            self._fd = self._libc.open()
            asyncio.get_running_loop().add_reader(self._fd, self._take)
        return self._libc.add(self._fd, os.fsencode(path), mask | _IN_MASK_ADD)

    def _poll(self, path: Path, mask: int, error: OSError) -> Subscription:
        if not self._warned:
            self._warned = True
            _logger.warning("no inotify (%s): looking every 100 ms; raise fs.inotify.max_user_watches", error.strerror)
        # A missing path is told all the same: the caller then watches what is above it.
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            os.close(os.open(path, os.O_PATH | os.O_CLOEXEC))
        subscription = Subscription(self, None, mask)
        self._polled.add(subscription)
        self._schedule()
        return subscription

    def _schedule(self) -> None:
        if self._timer is None and self._polled and self._loop is not None:
            self._timer = self._loop.call_later(_POLL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for subscription in self._polled:
            subscription.notify()
        self._schedule()

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._dispatch(os.read(self._fd, 65536))

    def _dispatch(self, data: bytes) -> None:
        offset = 0
        seen: set[tuple[int, int]] = set()
        while offset < len(data):
            wd, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            seen.add((wd, mask))
        for wd, mask in seen:
            if mask & _IN_Q_OVERFLOW:
                for sharers in self._watches.values():
                    _wake(sharers, -1)
            elif mask & _IN_IGNORED:
                for subscription in self._watches.pop(wd, set()):
                    subscription.gone = True
                    subscription.notify()
            else:
                _wake(self._watches.get(wd, set()), mask)


def _wake(sharers: set[Subscription], mask: int) -> None:
    for subscription in sharers:
        if subscription.mask & mask:
            if mask > 0 and mask & _IN_MOVE_SELF:
                subscription.gone = True
            subscription.notify()


class _Libc:
    """inotify's three calls; the standard library has none of them."""

    def __init__(self) -> None:
        import ctypes  # costs milliseconds, and who never waits never needs it

        libc = ctypes.CDLL(None, use_errno=True)
        self._errno = ctypes.get_errno
        self._init, self._add, self._remove = libc.inotify_init1, libc.inotify_add_watch, libc.inotify_rm_watch
        self._add.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)

    def open(self) -> int:
        fd = int(self._init(os.O_CLOEXEC | os.O_NONBLOCK))
        if fd < 0:
            self._fail(b"inotify")
        return fd

    def add(self, fd: int, path: bytes, mask: int) -> int:
        wd = int(self._add(fd, path, mask))
        if wd < 0:
            self._fail(path)
        return wd

    def remove(self, fd: int, wd: int) -> None:
        self._remove(fd, wd)  # EINVAL: the watch went by itself meanwhile

    def _fail(self, path: bytes) -> None:
        number = self._errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
