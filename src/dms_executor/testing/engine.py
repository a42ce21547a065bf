"""`MemoryEngine`: an engine whose jobs are scripts in this process.

It keeps neither log nor deadline, so that both ways of the lifecycle are shown without a daemon. Its jobs live as long
as the process, not only as long as the executor: a second executor in it finds them again, by state folder and token.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import ClassVar

import msgspec

from ..engine import (
    Chunk,
    Engine,
    EngineContext,
    Execution,
    Exit,
    Handle,
    Observed,
    Prepared,
    Report,
    merged_environment,
)
from ..errors import (
    EngineUnreachable,
    ExecutionNotRunning,
    ImageNotFound,
    InvalidRequest,
    NotSupported,
    StartFailed,
)
from ..typed import known
from ..types import ByteSize, Capacity, ExecutionRequest, Output, Probe, Progress
from .job import Job
from .spec import MemorySettings, MemorySpec, parse

__all__ = ["MemoryEngine"]

# The world of this engine: (executor id, token) -> job. It belongs to the process, as a daemon's belongs to the host.
_world: dict[tuple[str, str], Job] = {}


class MemoryEngine(Engine):
    """Scripts as jobs; for tests."""

    name: ClassVar[str] = "memory"
    rank: ClassVar[int] = 1000
    params: ClassVar[type[msgspec.Struct]] = MemorySpec
    settings: ClassVar[type[msgspec.Struct]] = MemorySettings
    keeps_log: ClassVar[bool] = False
    keeps_deadline: ClassVar[bool] = False

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._settings: MemorySettings = context.settings

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[MemoryEngine]:
        """Nothing to open."""
        yield cls(context)

    async def probe(self) -> Probe:
        """Always usable."""
        named = self._settings
        return Probe(
            engine=self.name,
            usable=True,
            version="1",
            capabilities=frozenset({"pause", "exact_signal", "oom_detection"}),
            capacity=Capacity(cpu=named.cpu, memory=ByteSize(named.memory), pids=named.pids),
        )

    async def validate(self, request: ExecutionRequest) -> None:
        """Refuses what has no meaning without a container."""
        parse(_params(request).script)
        for field in ("inputs", "outputs", "ports", "provision_scripts", "results_dir", "tty", "stdin_file"):
            if getattr(request, field):
                raise NotSupported(
                    f"engine memory has no {field}", engine=self.name, what=f"$.{field}", mend=f"Leave {field} out"
                )
        if request.network != "none":
            raise NotSupported("engine memory has no network", engine=self.name, what="$.network", mend="Use none")

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """Takes as long as the spec says."""
        params = _params(x.request)
        report(Progress(what="script", done=0, total=len(params.script), unit="steps"))
        await asyncio.sleep(params.prepare)
        if params.fail == "prepare":
            raise ImageNotFound("the spec asked for a failing preparation", mend="Ask for none", execution_id=x.id)
        return Prepared(stop_signal=15)

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """Makes the job."""
        params = _params(x.request)
        if params.fail == "create":
            raise StartFailed("the spec asked for a failing create", execution_id=x.id)
        environment = merged_environment({}, {}, x.request)
        _world.setdefault(self._key(x), Job(parse(params.script), environment, x.request.stdin))
        return Handle(state={"pid": os.getpid()}, engine_ids={"token": x.token})

    async def start(self, x: Execution, h: Handle) -> datetime:
        """Lets it go."""
        if _params(x.request).fail == "start":
            raise StartFailed("the spec asked for a failing start", execution_id=x.id)
        return self._job(x, h).go()

    async def survey(self) -> Mapping[str, Observed]:
        """The jobs of this process that the executor id names."""
        found = {}
        for (executor_id, token), job in _world.items():
            if executor_id == self._context.executor_id:
                found[token] = _observed(job)
        return found

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """Waits for the end."""
        try:
            job = self._job(x, h)
        except ExecutionNotRunning as error:
            return Exit(finished_at=datetime.now(UTC), lost=error.message)
        await job.ended.wait()
        return job.exit or Exit(finished_at=datetime.now(UTC), lost="no exit")

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """Delivers a signal."""
        job = self._job(x, h)
        if job.exit is not None:
            raise ExecutionNotRunning("the job has ended", execution_id=x.id)
        job.signal(signum)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The signal, then KILL."""
        self._job(x, h).stop(signum, grace)

    async def pause(self, x: Execution, h: Handle) -> None:
        """Freezes the job."""
        self._job(x, h).pause()

    async def resume(self, x: Execution, h: Handle) -> None:
        """Thaws it."""
        self._job(x, h).resume()

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """There are no outputs."""
        return []

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """Forgets the job."""
        job = _world.pop(self._key(x), None)
        if job is not None:
            job.lose("destroyed")

    async def output(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        """The job's output after a cursor."""
        try:
            job = self._job(x, h)
        except ExecutionNotRunning:
            return  # what it had not handed over went with it
        position = int(after or b"0")
        while (chunk := await job.output(position)) is not None:
            position += 1
            yield chunk

    def _key(self, x: Execution) -> tuple[str, str]:
        return self._context.executor_id, x.token

    def _job(self, x: Execution, h: Handle) -> Job:
        job = _world.get(self._key(x))
        if job is not None:
            return job
        if h.state.get("pid") not in (None, os.getpid()) and _alive(h.state["pid"]):
            raise EngineUnreachable(f"the job lives in process {h.state['pid']}", execution_id=x.id)
        raise ExecutionNotRunning("its process has ended, and its job with it", execution_id=x.id)


def _params(request: ExecutionRequest) -> MemorySpec:
    try:
        return msgspec.convert(request.engine_spec.params, known(MemorySpec))
    except msgspec.ValidationError as error:
        names = ", ".join(MemorySpec.__struct_fields__)
        raise InvalidRequest(str(error), path="$.engine_spec.params", mend=f"Known params: {names}") from error


def _observed(job: Job) -> Observed:
    if job.exit is not None:
        return Observed(phase="ended", exit=job.exit)
    if job.started_at is None:
        return Observed(phase="created")
    return Observed(phase="paused" if job.paused else "running")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
