"""What happens to our containers, by one stream of the daemon's events for all of them.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemEvents
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from ..errors import EngineUnreachable, ExecutorError
from .client import Client
from .names import EXECUTOR, TOKEN

__all__ = ["Ear", "Events"]

_OPENING = 10.0
_OVERLAP = 1  # seconds of the past that are asked for: the daemon answers before it listens
_UNREAD = 2.0  # seconds of output that a daemon may not have read yet when we saw that it was killed
_ABSENCES = 64  # that are remembered
_log = logging.getLogger("dms_executor.docker")


class Ear:
    """What one container's follower has heard. `died`: it has ended; `broken`: the stream was, ask the daemon again."""

    def __init__(self, events: Events, token: str) -> None:
        self._events = events
        self.token = token
        self.changed = asyncio.Event()
        self.died = False
        self.broken = False
        self.signals: set[str] = set()

    def close(self) -> None:
        """Idempotent."""
        self._events.forget(self)


class Events:
    """One daemon's, for one executor. Opened at the first need; `close` it in its loop."""

    def __init__(self, client: Client, executor_id: str) -> None:
        self._client = client
        self._executor_id = executor_id
        self._ears: dict[str, set[Ear]] = {}
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self.breaks = 0
        """How often the stream has ended: the same number before and after says that the daemon was there all along."""
        self._away_since: float | None = None
        self._away: list[tuple[float, float]] = []

    def listen(self, token: str) -> Ear:
        """Hears of the container from now on; `ready` says from when on truly."""
        ear = Ear(self, token)
        self._ears.setdefault(token, set()).add(ear)
        return ear

    def forget(self, ear: Ear) -> None:
        """`Ear.close` calls it."""
        ears = self._ears.get(ear.token, set())
        ears.discard(ear)
        if not ears:
            self._ears.pop(ear.token, None)

    async def ready(self) -> None:
        """Returns once the stream is open. Raises `EngineUnreachable`."""
        if self._task is None or self._task.done():
            self._opened = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._follow(self._opened), name="docker events")
        if self._opened is not None and not self._opened.done():
            try:
                await asyncio.wait_for(asyncio.shield(self._opened), _OPENING)
            except TimeoutError as error:
                raise EngineUnreachable(f"{self._client.title} sends no events", mend="Restart it") from error
        elif self._opened is not None:
            self._opened.result()

    def was_away(self, moment: float | None) -> bool:
        """Whether perhaps nobody read what a job wrote at that time, seconds since 1970, as far as is known here.

        None: at a time that nobody knows.
        """
        if moment is None:
            return self.breaks > 0
        since = self._away_since
        return any(since - _UNREAD <= moment <= until for since, until in self._away) or (
            since is not None and moment >= since - _UNREAD
        )

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, opened: asyncio.Future[None]) -> None:
        filters = json.dumps({"type": ["container"], "label": [f"{EXECUTOR}={self._executor_id}"]})
        query = {"filters": filters, "since": str(int(time.time()) - _OVERLAP)}
        try:
            async with self._client.stream("GET", "/events", query=query) as answer:
                opened.set_result(None)
                if self._away_since is not None:
                    self._away = [*self._away[1 - _ABSENCES :], (self._away_since, time.time())]
                    self._away_since = None
                async for event in answer.lines():
                    self._take(event)
        except ExecutorError as error:
            if not opened.done():
                opened.set_exception(error)
                opened.exception()  # who waited has it; perhaps nobody did
            else:
                _log.warning("events: %s", error)
        finally:
            if not opened.done():
                opened.cancel()
            self._broke()

    def _take(self, event: dict[str, Any]) -> None:
        attributes = event.get("Actor", {}).get("Attributes", {})
        for ear in self._ears.get(attributes.get(TOKEN, ""), ()):
            action = str(event.get("Action", ""))
            if action == "kill":
                ear.signals.add(str(attributes.get("signal", "")))
            elif action in ("die", "destroy"):
                ear.died = True
            ear.changed.set()

    def _broke(self) -> None:
        self.breaks += 1
        self._away_since = self._away_since or time.time()
        self._client.forget_version()
        for ear in [each for ears in self._ears.values() for each in ears]:
            ear.broken = True
            ear.changed.set()
