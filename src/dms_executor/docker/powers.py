"""What a running container can be asked: signals, stops, pauses, figures, and to be attached to."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, ClassVar

from ..engine import Execution, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning, NotSupported
from ..types import Stats
from . import files
from .attaching import Attachment, attach
from .body import QUIET_SIGNAL
from .client import ApiError
from .state import Inspected, look_at

if TYPE_CHECKING:
    from .client import Client
    from .daemon import Daemon
    from .dialect import Dialect
    from .events import Ear, Events
    from .gauge import Gauge

__all__ = ["Powers"]

_KILL = 9
_STOP_MOST = 30 * 86400  # seconds that a call to the daemon's stop may take
_HAND = 2.0
_LOOK = 0.02


class Powers:
    """The part of the engine that talks to containers which run."""

    dialect: ClassVar[Dialect]
    _client: Client
    _events: Events
    _gauge: Gauge
    _stopping: set[asyncio.Task[None]]
    _signalling: dict[str, asyncio.Lock]

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """The init passes it on to the job. Raises `ExecutionNotRunning`."""
        if not await self._kill(x, h, signum):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)

    async def attach(self, x: Execution, h: Handle) -> Attachment:
        """Raises `ExecutionNotRunning`."""

        async def send(signum: int) -> None:
            await self.signal(x, h, signum)

        return await attach(x, send)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The signal now; the grace is the daemon's, whose own stop begins with a signal that does nothing."""
        if signum == _KILL or grace <= 0:
            if signum != _KILL:
                await self._kill(x, h, signum)
            await self._kill(x, h, _KILL)
            return
        ear = self._events.listen(x.token)
        try:
            await self._events.ready()
            if not await self._kill(x, h, signum):
                return
            await self._unpaused(h)
            task = asyncio.create_task(self._end(x, h, grace), name=f"stop {x.id}")
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
            async with asyncio.timeout(_HAND):
                while not (ear.died or ear.broken or task.done() or await self._has_in_hand(h, ear)):
                    ear.changed.clear()
                    if self.dialect.tells_stops:
                        await ear.changed.wait()
                    else:
                        await asyncio.sleep(_LOOK)
        except TimeoutError:
            return
        finally:
            ear.close()

    async def pause(self, x: Execution, h: Handle) -> None:
        """Returns once all of it stands still. Raises `ExecutionNotRunning`, `NotSupported`."""
        await self._needs_group("pause")
        await self._frozen(x, h, "pause", is_paused=True)

    async def resume(self, x: Execution, h: Handle) -> None:
        """Thaws it. Raises `ExecutionNotRunning`."""
        await self._frozen(x, h, "unpause", is_paused=False)

    async def stats(self, x: Execution, h: Handle) -> Stats:
        """Raises `ExecutionNotRunning`, `NotSupported`."""
        await self._needs_group("stats")
        query = {"stream": "0", "one-shot": "1"}
        raw = await self._ask("GET", f"/containers/{_id(h)}/stats", **query)
        if not raw or (not raw.get("memory_stats") and not raw.get("pids_stats")):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        return self._gauge.read(x.token, raw)

    async def _known_daemon(self) -> Daemon:
        raise NotImplementedError

    async def _needs_group(self, power: str) -> None:
        if not (await self._known_daemon()).has_groups:
            raise NotSupported(
                f"engine {self.dialect.engine} has no {power} here: {self.dialect.title} can make no control groups",
                engine=self.dialect.engine,
                what=power,
                mend="Use cgroup v2 and systemd, which delegates them to users; or root's",
            )

    async def _ask(self, method: str, path: str, **query: Any) -> Any:
        return await self._client.call(method, path, **query)

    async def _kill(self, x: Execution, h: Handle, signum: int) -> bool:
        """False: it does not run any more."""
        async with self._signalling.setdefault(x.token, asyncio.Lock()):
            # Noted before: the job may be over, and its end be read, before the daemon has answered.
            noted = await asyncio.to_thread(files.note_signal, x)
            try:
                await self._ask("POST", f"/containers/{_id(h)}/kill", signal=str(signum))
            except ApiError as error:
                if noted:
                    await asyncio.to_thread(files.forget_signal, x)
                if error.is_over:
                    return False
                found = await self._looked_at(h)  # Podman has no status of its own for one that has ended
                if found is None or found.has_ended:
                    return False
                raise EngineUnreachable(error.message, execution_id=x.id) from error
        return True

    async def _end(self, x: Execution, h: Handle, grace: float) -> None:
        """The daemon's stop counts whole seconds, and goes on without us; we keep the exact time while we live."""
        seconds = str(math.ceil(grace))
        stop = asyncio.ensure_future(
            self._ask("POST", f"/containers/{_id(h)}/stop", deadline=grace + _STOP_MOST, t=seconds)
        )
        try:
            done, _ = await asyncio.wait([stop], timeout=grace)
            if not done:
                await self._kill(x, h, _KILL)
            await asyncio.wait([stop])
        finally:
            stop.cancel()
            await asyncio.wait([stop])
            if not stop.cancelled():
                stop.exception()  # it has ended, or the daemon has: who watches it sees that

    async def _has_in_hand(self, h: Handle, ear: Ear) -> bool:
        """Whether the daemon counts the grace: it tells of the first signal of its stop, or shows another state."""
        if self.dialect.tells_stops:
            return str(QUIET_SIGNAL) in ear.signals
        found = await self._looked_at(h)
        return found is None or found.state.status not in ("running", "paused")

    async def _unpaused(self, h: Handle) -> None:
        try:
            await self._ask("POST", f"/containers/{_id(h)}/unpause")
        except ApiError:
            return  # it was not paused

    async def _frozen(self, x: Execution, h: Handle, verb: str, *, is_paused: bool) -> None:
        try:
            await self._ask("POST", f"/containers/{_id(h)}/{verb}")
        except ApiError as error:
            found = await self._looked_at(h)
            if found is None or not found.state.running:
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            if found.state.paused is not is_paused:
                raise EngineUnreachable(error.message, execution_id=x.id) from error

    async def _looked_at(self, h: Handle) -> Inspected | None:
        return await look_at(self._client, _id(h))


def _id(h: Handle) -> str:
    return str(h.state["container"])
