"""A job of the in-memory engine: a task that walks through its script."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Literal

from ..engine import Chunk, Exit
from ..types import Stream, Usage, signal_number
from .spec import Step

__all__ = ["Job"]

_IGNORED = frozenset({0, 17, 18, 23, 28})
"""Signals whose default disposition is to be ignored, or to go on (signal(7)): CHLD, CONT, URG, WINCH."""


class Job:
    """One job in memory, as a world of its own: it goes on without the executor that made it, but not its process."""

    def __init__(self, steps: list[Step], environment: dict[str, str], stdin: bytes) -> None:
        self._steps = steps
        self._environment = environment
        self._stdin = stdin
        self._traps: dict[int, int] = {}
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._changed = asyncio.Event()
        self._killed = False
        self._stopped_by: Literal["deadline", "stop"] | None = None
        self._body: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._kill_at = float("inf")
        self.started_at: datetime | None = None
        self.chunks: list[tuple[Stream, datetime, bytes]] = []
        self.exit: Exit | None = None
        self.ended = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Whether the job is frozen."""
        return not self._unpaused.is_set()

    def go(self) -> datetime:
        """Lets the job begin; idempotent."""
        if self._body is None:
            self.started_at = datetime.now(UTC)
            self._body = asyncio.create_task(self._run(), name="memory job")
        return self.started_at or datetime.now(UTC)

    def pause(self) -> None:
        """Freezes the job before its next step."""
        self._unpaused.clear()

    def resume(self) -> None:
        """Lets it go on."""
        self._unpaused.set()

    def signal(self, number: int) -> None:
        """Delivers a signal as the kernel would."""
        if self.exit is not None or number in _IGNORED:
            return
        self._killed = True
        code = self._traps.get(number) if number != 9 else None
        if code is not None and code >= 0:
            self._end(code=code)
        elif code is not None:
            return  # the script ignores it
        else:
            self._end(code=128 + number, signal=number)

    def stop(self, signum: int, grace: float) -> None:
        """The signal, then KILL; a second stop joins the first, the earlier end of grace counts."""
        if self.exit is not None:
            return
        self._stopped_by = self._stopped_by or "stop"
        self.resume()
        loop = asyncio.get_running_loop()
        at = loop.time() + grace
        if at < self._kill_at:
            if self._grace is not None:
                self._grace.cancel()
            self._kill_at, self._grace = at, loop.call_at(at, self.signal, 9)
        self.signal(signum)

    def lose(self, why: str) -> None:
        """The engine loses the job."""
        self._end(lost=why)

    async def output(self, after: int) -> Chunk | None:
        """The chunk past number `after`; None at the end."""
        while len(self.chunks) <= after:
            if self.exit is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        stream, time, data = self.chunks[after]
        return Chunk(stream=stream, time=time, data=data, cursor=str(after + 1).encode())

    async def _run(self) -> None:
        for step in self._steps:
            await self._unpaused.wait()
            await self._do(step)
        self._end(code=0)

    async def _do(self, step: Step) -> None:
        if step.verb in ("echo", "print", "bytes"):
            self._write("stdout", step.data)
        elif step.verb == "error":
            self._write("stderr", step.data)
        elif step.verb == "env":
            self._write("stdout", self._environment.get(step.text, "").encode() + b"\n")
        elif step.verb == "cat":
            self._write("stdout", self._stdin)
        elif step.verb == "flood":
            for number in range(int(step.text)):
                self._write("stdout", b"%099d\n" % number)
        elif step.verb == "trap":
            name, code = step.text.split(" ")
            self._traps[signal_number(name)] = int(code)
        elif step.verb == "sleep":
            await asyncio.sleep(float(step.text))
        elif step.verb == "forever":
            await asyncio.Event().wait()
        else:
            self._finish(step)

    def _finish(self, step: Step) -> None:
        if step.verb == "exit":
            self._end(code=int(step.text) & 0xFF)
        elif step.verb == "kill":
            number = signal_number(step.text)
            self._end(code=128 + number, signal=number)
        elif step.verb == "oom":
            self._end(code=137, signal=9, oom_kills=1)
        elif step.verb == "lose":
            self.lose("the script said so")

    def _write(self, stream: Stream, data: bytes) -> None:
        if data:
            self.chunks.append((stream, datetime.now(UTC), data))
            self._changed.set()

    def _end(
        self, *, code: int | None = None, signal: int | None = None, oom_kills: int = 0, lost: str | None = None
    ) -> None:
        if self.exit is not None:
            return
        self.exit = Exit(
            code=code,
            signal=signal,
            oom_kills=oom_kills,
            stopped_by=self._stopped_by,
            killed=self._killed,
            lost=lost,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            usage=Usage(oom_kills=oom_kills),
        )
        if self._grace is not None:
            self._grace.cancel()
        self._changed.set()
        self.ended.set()
        if self._body is not None:
            self._body.cancel()
