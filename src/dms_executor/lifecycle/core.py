"""`Core`: what the parts of the lifecycle share in one open executor."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ..changes import Changes
from ..devices.allowed import allows
from ..devices.gpus import names_of
from ..engine import Engine, EngineContext, Execution
from ..errors import EngineUnavailable, EngineUnreachable, ExecutionNotFound, ExecutorClosed, InvalidRequest
from ..journal import Intent, Journal, Owners, Row
from ..policy import Policy
from ..registry import engine_class, names_by_rank
from ..tasks import Tasks
from ..types import (
    Capacity,
    ExecutionRequest,
    ExecutionStatus,
    Probe,
    Resources,
    Settings,
    SpecConfig,
    check_id,
    from_builtins,
)
from .live import Live

if TYPE_CHECKING:
    from .sessions import ExecSession

__all__ = ["Core"]

T = TypeVar("T")


class Core:
    """The open executor's own world: state folder, journal, engines, and the executions that live here."""

    def __init__(
        self,
        state_dir: Path,
        executor_id: str,
        owners: Owners,
        *,
        policy: Policy,
        settings: Settings,
    ) -> None:
        self.state_dir = state_dir
        self.executor_id = executor_id
        self.owners = owners
        self.owner = owners.me.uuid
        self.policy = policy
        self.settings = settings
        self.durable = settings.durability == "power"
        self.journal = Journal(state_dir, self.owner, durable=self.durable)
        self.changes = Changes(state_dir, self.journal)
        self.tasks = Tasks()
        self.live: dict[str, Live] = {}
        self.preparing: dict[str, Live] = {}
        self.intents: asyncio.Task[None] | None = None
        self.files = ThreadPoolExecutor(min(32, 4 + 2 * (os.cpu_count() or 1)), thread_name_prefix="dms-files")
        self.insisting: dict[str, Intent] = {}
        """What is asked of an engine again, by the tokens of jobs that it could not be asked to stop."""
        self.creations = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self.sessions: set[ExecSession] = set()
        self.closing = asyncio.Event()
        self.recovering = asyncio.Lock()
        self.settle_soon: Callable[[], None] = lambda: None
        """Asks for one more recovery, for an execution that nobody living brings to its end."""
        self.settling: set[str] = set()
        """Tokens of what a recovery is just taking away."""
        self.unsettled = False
        """Whether the last recovery left something open that it should have settled."""
        # Of their own, since they must outlive what still calls them while the executor closes.
        self._sessions = AsyncExitStack()
        self._engines: dict[str, Engine] = {}
        self._opening = asyncio.Lock()

    async def engine(self, name: str) -> Engine:
        """The open engine of that name. Raises `InvalidRequest`, `EngineUnavailable`."""
        if name in self._engines:
            return self._engines[name]
        async with self._opening:
            if name not in self._engines:
                self._engines[name] = await self._open_engine(name)
        return self._engines[name]

    async def close_engines(self) -> None:
        """Ends every engine's session; nothing calls an engine any more. Idempotent."""
        await self._sessions.aclose()

    async def probe(self, name: str) -> Probe:
        """What an engine says of itself, or why it cannot be opened."""
        try:
            return await (await self.engine(name)).probe()
        except (EngineUnavailable, EngineUnreachable, InvalidRequest) as error:
            return Probe(engine=name, usable=False, problem=error.message, mend=error.mend)

    def opened(self) -> list[str]:
        """The names of the engines that are open."""
        return list(self._engines)

    async def engine_for(self, request: ExecutionRequest) -> Engine:
        """The engine that a request names, else the first usable one by rank."""
        if request.engine_spec.type is not None:
            return await self.engine(request.engine_spec.type)
        problems: list[EngineUnavailable] = []
        for name in await self.in_thread(names_by_rank):
            try:
                engine = await self.engine(name)
                probe = await engine.probe()
            except (EngineUnavailable, EngineUnreachable) as error:
                problems.append(EngineUnavailable(f"{name}: {error.message}", mend=error.mend))
                continue
            if probe.usable:
                return engine
            problems.append(EngineUnavailable(f"{name}: {probe.problem}", mend=probe.mend))
        # The one that would be taken if it could is the one to mend.
        mend = f"{problems[0].mend.rstrip('.')}. " if problems and problems[0].mend else ""
        raise EngineUnavailable(
            f"no engine is usable here ({'; '.join(problem.message for problem in problems)})",
            mend=f"{mend}`dms-executor engines` says how to mend the others",
        )

    async def capacity(self, engine: Engine, request: ExecutionRequest) -> Capacity | None:
        """What the executions of an engine may reserve together; asked only where the request reserves."""
        named = request.resources
        if named == Resources():
            return None
        chosen = self.settings.capacity
        if chosen is None or (named.gpus and chosen.gpus is None):
            found = (await engine.probe()).capacity or Capacity()
            chosen = found if chosen is None else msgspec.structs.replace(chosen, gpus=found.gpus)
        if chosen.gpus is None:
            return chosen
        allowed = [gpu for gpu in chosen.gpus if allows(self.policy, *names_of(gpu))]
        return msgspec.structs.replace(chosen, gpus=allowed)

    def execution(self, request: ExecutionRequest) -> Execution:
        """A new incarnation: its token names all that is created outside the state folder."""
        token = uuid.uuid4().hex[:20]
        return self.known(request, token)

    def known(self, request: ExecutionRequest, token: str) -> Execution:
        """An incarnation that the journal knows."""
        return Execution(
            id=request.execution_id,
            token=token,
            executor_id=self.executor_id,
            folder=self.journal.folder(token),
            request=request,
        )

    def unknown(self, token: str) -> Execution:
        """An incarnation that no row knows: all there is is its token."""
        nothing = ExecutionRequest(job_id="unknown", execution_id="unknown", engine_spec=SpecConfig())
        return self.known(nothing, token)

    async def mind_owner(self, uuid: str) -> None:
        """Watches for the end of the process that owns something which is waited for."""
        for owner in await self.in_thread(self.owners.others):
            if owner.uuid == uuid:
                await self.changes.mind(owner)
                return
        await self.changes.owner_ended()

    async def row(self, execution_id: str, job_id: str | None = None) -> Row:
        """The row of an id. Raises `ExecutionNotFound`, `InvalidRequest`."""
        check_id(execution_id)
        row = await self.journal.by_id(execution_id)
        if row is None or job_id not in (None, row.job_id):
            raise ExecutionNotFound(
                f"there is no execution {execution_id}" + (f" of job {job_id}" if job_id else ""),
                mend="`dms-executor ps -a` lists all",
                execution_id=execution_id,
            )
        return row

    def seen_running(self, execution_id: str) -> Live | None:
        """One that runs as far as this process knows, which watches it; without a look into the record."""
        for live in self.live.values():
            if live.x.id == execution_id and live.status is ExecutionStatus.RUNNING and not live.ended:
                return live
        return None

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs what blocks on the one pool for files."""
        return await asyncio.get_running_loop().run_in_executor(self.files, work, *arguments)

    async def unless_closed(self, awaitable: Awaitable[T]) -> T:
        """Awaits something of the user's job, for as long as the executor is open. Raises `ExecutorClosed`."""
        wanted = asyncio.ensure_future(awaitable)
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait({wanted, closing}, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            raise ExecutorClosed("the executor was closed", mend="Running jobs go on: open it again and wait")
        finally:
            for future in (wanted, closing):
                future.cancel()

    async def _open_engine(self, name: str) -> Engine:
        kind = await self.in_thread(engine_class, name)  # may read the metadata of all that is installed
        try:
            chosen = from_builtins(self.settings.engines.get(name, {}), kind.settings)
        except msgspec.ValidationError as error:
            names = ", ".join(kind.settings.__struct_fields__)
            raise InvalidRequest(
                str(error), path=f"$.settings.engines.{name}", mend=f"Known settings of {name}: {names}"
            ) from error
        context = EngineContext(
            state_dir=self.state_dir,
            executor_id=self.executor_id,
            settings=chosen,
            policy=self.policy,
            grace=self.settings.grace,
            prepare_timeout=self.settings.prepare_timeout,
            log_cap=int(self.settings.log_cap),
            durable=self.durable,
        )
        return await self._sessions.enter_async_context(kind.open(context))
