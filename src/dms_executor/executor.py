"""`Executor`: the thin public front. Every method is a line of the specification; the work is in `lifecycle`."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from . import recovery
from .attaching import attach
from .described import described, listed, named_statuses
from .errors import (
    ExecutorClosed,
    InvalidRequest,
)
from .journal.folder import state_folder_default
from .lifecycle import (
    Core,
    ExecSession,
    cancel,
    checked_command,
    copy_in,
    copy_out,
    open_session,
    pause,
    restore,
    resume,
    run_command,
    send_signal,
    snapshot,
    start,
    stats,
    wait,
    wait_for_status,
)
from .lifecycle.follow import outcome
from .lifecycle.stop import give_up
from .lifecycle.streams import checked_interval, stats_stream
from .log_access import opened_log
from .logs.stream import LogStream
from .maintenance import cleanup
from .opening import close, enter
from .policy import Policy
from .registry import engine_names
from .removal import remove
from .stored_images import images, prune, pull_image, remove_image
from .transitions import transitions
from .types import (
    CleanupReport,
    Event,
    ExecResult,
    ExecutionInfo,
    ExecutionRequest,
    ExecutionResult,
    ExecutionStatus,
    ImageInfo,
    LogStreamRequest,
    Probe,
    Progress,
    RecoveryReport,
    Settings,
    Stats,
    signal_number,
    validated,
)

__all__ = ["Executor"]


class Executor:
    """Runs jobs on any engine. One per process and state folder; belongs to one event loop.

    Made by `Executor.open`. All times are seconds, all sizes bytes. Every method raises `ExecutorClosed` once the
    executor is closed, `ExecutionNotFound` for an id that is not there, and `InvalidRequest` for bad arguments.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        policy: Policy | None = None,
        settings: Settings | None = None,
        _follow: bool = True,
    ) -> AsyncIterator[Executor]:
        """Opens the state folder, recovers what an earlier caller left, and closes at the end of the `async with`.

        `state_dir` None: `DMS_EXECUTOR_STATE_DIR`, else /var/lib/dms-executor as root and the XDG state folder
        otherwise. Raises `StateError` and its kinds. Closing leaves running jobs running.
        """
        chosen = validated(settings or Settings(), Settings)
        folder = Path(state_dir) if state_dir is not None else state_folder_default()
        async with AsyncExitStack() as stack:
            core = await enter(folder, policy or Policy(), chosen, stack)
            executor = cls(core)
            stack.push_async_callback(close, core)
            rows = await core.journal.open()
            core.settle_soon = recovery.Again(core).soon
            core.changes.owner_ended = executor._recover_quietly
            core.journal.committed = lambda _token, _status: core.changes.committed()
            if rows:
                await recovery.recover(core, follow=_follow)
            yield executor

    # -- a job's life --------------------------------------------------------------------------------------------

    async def start(self, request: ExecutionRequest, *, progress: Callable[[Progress], None] | None = None) -> None:
        """Begins an execution; returns when its job runs.

        Raises `InvalidRequest`, `PolicyDenied`, `NotSupported`, `EngineUnavailable`, `ResourcesUnavailable` (nothing
        was created), `ExecutionAlreadyStarted`, `ExecutionAlreadyFinished`, `ImageNotFound`, `ImagePullFailed`,
        `StartFailed`, `ExecutionCancelled` (a failed or cancelled record says why), `EngineUnreachable` (nobody knows
        whether it runs yet: the record says so once its engine answers, and the id is taken).
        """
        await start(self._open_core(), request, progress)

    async def run(
        self, request: ExecutionRequest, *, progress: Callable[[Progress], None] | None = None
    ) -> ExecutionResult:
        """Start and wait. A job that exits non-zero is a result, not an error. Cancelling it cancels the execution."""
        core = self._open_core()
        live = await start(core, request, progress)
        try:
            return await outcome(core, live)
        except asyncio.CancelledError:
            if not core.closing.is_set():
                await give_up(core, live)
            raise

    async def wait(self, execution_id: str) -> ExecutionResult:
        """The result, once the execution is complete; at once if it is. Any number of waiters.

        Raises `ResultExpired`. Cancelling it leaves the job alone.
        """
        return await wait(self._open_core(), execution_id)

    async def wait_for_status(self, execution_id: str, *statuses: ExecutionStatus | str) -> ExecutionStatus:
        """The first of `statuses` that the execution reaches.

        Raises `ExecutionAlreadyFinished` where it ends in another one.
        """
        wanted = named_statuses(statuses) or {*ExecutionStatus}
        return await wait_for_status(self._open_core(), execution_id, wanted)

    async def cancel(self, execution_id: str, *, signal: int | str | None = None, grace: float | None = None) -> None:
        """Terminates an execution: signal (the image's stop signal, else TERM), grace, then KILL.

        Returns when the job is gone. Raises `ExecutionAlreadyFinished`. A cancelled call completes all the same. Raises
        `EngineUnreachable` where the engine does not answer: it is asked again then, also without the caller, for as
        long as this executor is open, and by whoever opens the state folder next.
        """
        if grace is not None and not 0 <= grace < 1e9:
            raise InvalidRequest(f"{grace} is no duration", path="$.grace", mend="Use seconds, 0 or more")
        number = None if signal is None else signal_number(signal)
        await cancel(self._open_core(), execution_id, number, grace)

    async def send_signal(self, execution_id: str, signal: int | str) -> None:
        """Sends 15, "TERM" or "SIGTERM" to the job's main process. Raises `ExecutionNotRunning`."""
        await send_signal(self._open_core(), execution_id, signal_number(signal))

    async def pause(self, execution_id: str) -> None:
        """Freezes the job; idempotent while it is alive. Raises `ExecutionNotRunning`, `NotSupported`."""
        await pause(self._open_core(), execution_id)

    async def resume(self, execution_id: str) -> None:
        """Thaws the job; idempotent while it is alive. Raises `ExecutionNotRunning`, `NotSupported`."""
        await resume(self._open_core(), execution_id)

    async def remove(self, execution_id: str, *, force: bool = False) -> None:
        """Removes record, log and result; the id is free again.

        Raises `ExecutionNotFinished`, unless `force`, which cancels it first. A cancelled call completes all the same.
        """
        core = self._open_core()
        await core.tasks.complete(remove(core, execution_id, force=force), f"remove {execution_id}")

    # -- what runs in it beside it -------------------------------------------------------------------------------

    async def exec(
        self,
        execution_id: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        working_directory: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Runs a further command in a running job, with the job's own restrictions, and waits for its end.

        `environment` is added to the job's own (without its secrets). After `timeout` the command and all that came of
        it are gone, the job goes on, and the result says `timed_out`. What the command left in the background when it
        ended lives on. Raises `ExecutionNotRunning` (paused as well), `NotSupported`, and `StartFailed` where the
        command cannot be executed. Cancelling it kills the command.
        """
        command = checked_command(argv, environment=environment, working_directory=working_directory, user=user)
        core = self._open_core()
        return await run_command(core, execution_id, command, stdin=stdin, timeout=timeout, max_output=max_output)

    async def exec_session(
        self,
        execution_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        size: tuple[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
        working_directory: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> ExecSession:
        """As `exec`, with live input and output; `tty`: on a terminal of `size` (columns, rows), else (80, 24).

        The command ends with the session, and the session with this executor or its process, however that ends.
        """
        terminal = (size or (80, 24)) if tty else None
        command = checked_command(
            argv, environment=environment, working_directory=working_directory, user=user, terminal=terminal
        )
        return await open_session(self._open_core(), execution_id, command, timeout)

    async def attach(self, execution_id: str, *, from_start: bool = False) -> ExecSession:
        """The job itself as a session: its stdin where it was started with `stdin_open` or `tty`, and its output.

        Output begins now, or with `from_start` at the job's first byte; it is the log's, so that a slow reader slows
        nobody. Any number may be attached, from any process; closing the session, or its owner's death in any way,
        leaves the job and its input as they are. `close_stdin` ends the input for good, for all. Without an open input
        `write` raises `ExecutionNotRunning`. Raises `ExecutionNotRunning`, `NotSupported`.
        """
        return await attach(self._open_core(), execution_id, from_start=from_start)

    # -- what is known -------------------------------------------------------------------------------------------

    async def list(
        self,
        *,
        statuses: Sequence[ExecutionStatus | str] | None = None,
        job_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        after: str | None = None,
        newest_first: bool = False,
    ) -> builtins.list[ExecutionInfo]:
        """Executions in order of creation, or the newest first; `after` is the last id of the page before.

        Raises `ExecutionNotFound` where `after` was removed meanwhile.
        """
        await recovery.refresh(self._open_core())
        return await listed(
            self._open_core(),
            statuses=statuses,
            job_id=job_id,
            labels=labels or {},
            limit=limit,
            after=after,
            newest_first=newest_first,
        )

    async def get_status(self, execution_id: str) -> ExecutionStatus:
        """The status that is recorded now."""
        await recovery.refresh(self._open_core())
        return (await self._open_core().row(execution_id)).status

    async def inspect(self, execution_id: str) -> ExecutionInfo:
        """All that is known: request (secrets out), status, times, ports, the engine's ids, what was loosened."""
        await recovery.refresh(self._open_core())
        return described(self._core, await self._open_core().row(execution_id))

    async def get_log_stream(self, request: LogStreamRequest, execution_id: str | None = None) -> LogStream:
        """The output of an execution that is pending, running or finished (section 6 of the specification).

        Raises `ExecutionNotFound` (also for a `job_id` that is not its own), `ResultExpired`.
        """
        return await opened_log(self._open_core(), request, execution_id)

    def events(self, *, after: int | None = None, follow: bool = True) -> AsyncIterator[Event]:
        """Every transition, the same in each process. None: from now on; 0: all; without `follow`: to the last."""
        core = self._open_core()
        newest = core.tasks.spawn(core.journal.last_event(), "newest event") if after is None else None
        return transitions(core, newest, after or 0, follow=follow)

    async def probe(self, engine: str | None = None) -> builtins.list[Probe]:
        """Whether each engine is usable here: version, capabilities, capacity; if not, how to mend it."""
        core = self._open_core()
        if engine is not None:
            return [await (await core.engine(engine)).probe()]
        return [await core.probe(name) for name in await core.in_thread(engine_names)]

    async def recover(self) -> RecoveryReport:
        """Settles what an earlier caller left; automatic on open."""
        return await recovery.recover(self._open_core(), thorough=True)

    async def cleanup(self, *, running: bool = False) -> CleanupReport:
        """Applies retention and removes leftovers; touches what runs only with `running=True`, which cancels it."""
        return await cleanup(self._open_core(), running=running)

    # -- powers that come with later issues ----------------------------------------------------------------------

    async def copy_in(
        self,
        execution_id: str,
        source: str | os.PathLike[str] | int,
        target: str,
        *,
        follow: bool = False,
        keep_owner: bool = False,
    ) -> None:
        """Copies a file or a tree from the host into a running job, by the rules of `docker cp`.

        `source` may be a descriptor from which a tar stream is read into the folder `target`. `follow`: a link in the
        place of `source` is followed. What comes in is the job's root's, unless `keep_owner`. Paths are the caller's
        own, no policy judges them. Raises `InvalidRequest`, `CopyFailed`, `ExecutionNotRunning`, `NotSupported`.
        """
        given = source if isinstance(source, int) else os.fsencode(source)
        path = os.fsencode(target)
        await copy_in(self._open_core(), execution_id, given, path, follow=follow, keep_owner=keep_owner)

    async def copy_out(
        self,
        execution_id: str,
        source: str,
        target: str | os.PathLike[str] | int,
        *,
        follow: bool = False,
        keep_owner: bool = False,
    ) -> None:
        """Copies a file or a tree from a running job to the host; `target` may be a descriptor for a tar stream.

        What comes out is the caller's and has no set-user-id or set-group-id bit, unless `keep_owner`. The rest is as
        with `copy_in`.
        """
        wanted = target if isinstance(target, int) else os.fsencode(target)
        path = os.fsencode(source)
        await copy_out(self._open_core(), execution_id, path, wanted, follow=follow, keep_owner=keep_owner)

    async def stats(self, execution_id: str) -> Stats:
        """What a running job uses now. Raises `ExecutionNotRunning`, `NotSupported`."""
        return await stats(self._open_core(), execution_id)

    def stats_stream(self, execution_id: str, *, interval: float = 1.0) -> AsyncIterator[Stats]:
        """A sample at once and one each `interval` seconds, until the job ends. Raises as `stats` does."""
        return stats_stream(self._open_core(), execution_id, checked_interval(interval))

    async def snapshot(self, execution_id: str, name: str) -> None:
        """Saves a running job to disk under a name; nothing of it runs then, and its status is `paused`.

        Its timeout goes on. Raises `ExecutionNotRunning`, `NotSupported` (also while sessions or copies are
        open in it), `InvalidRequest` (the name is taken).
        """
        await snapshot(self._open_core(), execution_id, name)

    async def restore(self, name: str, execution_id: str, *, request: ExecutionRequest | None = None) -> None:
        """Lets a saved job go on, as the execution that it was; another id, or a request, is not supported yet.

        Raises `ExecutionNotFound`, `ExecutionNotRunning`, `NotSupported`; `StartFailed`, `ResourcesUnavailable`: it is
        saved as before.
        """
        await restore(self._open_core(), name, execution_id, request)

    async def images(self) -> builtins.list[ImageInfo]:
        """The images that the usable engines have here, the one used last first."""
        return await images(self._open_core())

    async def pull_image(
        self,
        image: str,
        *,
        engine: str | None = None,
        platform: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> ImageInfo:
        """Brings what a name means now, ahead of its first job. Raises `ImageNotFound`, `ImagePullFailed`."""
        return await pull_image(self._open_core(), image, engine, platform, progress)

    async def remove_image(self, digest: str) -> int:
        """Takes an image away; the bytes that this freed. Raises `ImageNotFound`, and `ImageInUse` while one runs."""
        return await remove_image(self._open_core(), digest)

    async def prune_images(self, *, unused_for: float = 0.0, size: int = 1 << 62) -> CleanupReport:
        """Takes away images that nobody used for so many seconds, and those unused longest until `size` is left.

        None that an execution uses goes.
        """
        return await prune(self._open_core(), age=unused_for, size=size)

    # -- within --------------------------------------------------------------------------------------------------

    def _open_core(self) -> Core:
        if self._core.closing.is_set():
            raise ExecutorClosed("the executor is closed", mend="Open it again; running jobs go on")
        return self._core

    async def _recover_quietly(self) -> None:
        if not self._core.closing.is_set():
            await recovery.recover(self._core)
