"""Waiting for a change in a folder that may not be there yet."""

from __future__ import annotations

from pathlib import Path

from .inotify import APPEARED, CHANGED, Subscription, Wakeups

__all__ = ["FolderChanges"]


class FolderChanges:
    """Tells of changes in `folder`; while it is missing, of its being made.

    Call `look` before each look; `close` it.
    """

    def __init__(self, watcher: Wakeups, folder: Path) -> None:
        self._watcher = watcher
        self._folder = folder
        self._subscription: Subscription | None = None
        self._whole = False

    def look(self) -> None:
        """Forgets what happened so far: whatever changes from here on ends `wait`."""
        subscription = self._subscription
        if subscription is not None:
            subscription.clear()
            if self._whole and not subscription.gone:
                return
        self._replace(self._subscribe())

    async def wait(self) -> None:
        """Returns once there was a change, or `wake`, since the last `look`. It may return without cause."""
        if self._subscription is not None:
            await self._subscription.wait()

    def wake(self) -> None:
        """Ends `wait`."""
        if self._subscription is not None:
            self._subscription.notify()

    def close(self) -> None:
        """Ends the subscription. Idempotent."""
        self._replace(None)

    def _replace(self, subscription: Subscription | None) -> None:
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = subscription

    def _subscribe(self) -> Subscription:
        """Subscribes to the folder, else to the nearest that is there above it."""
        place = self._folder
        subscription = self._try(place, CHANGED)
        while subscription is None:
            place = place.parent
            subscription = self._try(place, APPEARED)
        if place == self._folder:
            self._whole = True
            return subscription
        # What is below may have been made before the subscription was there: then nothing would tell of it.
        self._whole = False
        below = self._try(_child(place, self._folder), APPEARED)
        if below is not None:
            below.close()
            subscription.notify()
        return subscription

    def _try(self, path: Path, mask: int) -> Subscription | None:
        try:
            return self._watcher.watch(path, mask)
        except FileNotFoundError:
            return None


def _child(place: Path, folder: Path) -> Path:
    return place / folder.relative_to(place).parts[0]
