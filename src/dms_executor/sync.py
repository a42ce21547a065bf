"""`Executor` with blocking methods: one delegate over one loop thread.

Each call becomes a task of that loop; the caller's thread waits for it. Ctrl-C while it waits cancels the task, waits
until that is done (so in `run()` and `start()` the execution is cancelled first) and then raises; a second Ctrl-C
does not wait for the job's grace. Any thread may call.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from .blocking import Events, ExecSession, Iteration, LogStream
from .executor import Executor as AsyncExecutor
from .loop_thread import LoopThread
from .policy import Policy
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
)

__all__ = ["Events", "ExecSession", "Executor", "LogStream"]


class Executor:
    """The same as `dms_executor.Executor`, with methods that block; what each does and raises is said there.

    Made by `Executor.open`, closed by `close` or at the end of its `with`. Every method raises `ExecutorClosed` then.
    """

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._executor = loop.executor
        self._call = loop.call

    @classmethod
    def open(
        cls,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        policy: Policy | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """Opens the state folder and recovers what an earlier caller left. Raises `StateError` and its kinds."""
        return cls(LoopThread(lambda: AsyncExecutor.open(state_dir, policy=policy, settings=settings)))

    def close(self) -> None:
        """Closes; running jobs go on, calls that wait elsewhere raise `ExecutorClosed`. Idempotent."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- a job's life --------------------------------------------------------------------------------------------

    def start(self, request: ExecutionRequest, *, progress: Callable[[Progress], None] | None = None) -> None:
        """Begins an execution; returns when its job runs. `progress` is called in the loop's thread."""
        self._call(self._executor.start(request, progress=progress))

    def run(self, request: ExecutionRequest, *, progress: Callable[[Progress], None] | None = None) -> ExecutionResult:
        """Start and wait. A job that exits non-zero is a result, not an error. Ctrl-C cancels the execution."""
        return self._call(self._executor.run(request, progress=progress))

    def wait(self, execution_id: str) -> ExecutionResult:
        """The result, once the execution is complete; at once if it is. Ctrl-C leaves the job alone."""
        return self._call(self._executor.wait(execution_id))

    def wait_for_status(self, execution_id: str, *statuses: ExecutionStatus | str) -> ExecutionStatus:
        """The first of `statuses` that the execution reaches."""
        return self._call(self._executor.wait_for_status(execution_id, *statuses))

    def cancel(self, execution_id: str, *, signal: int | str | None = None, grace: float | None = None) -> None:
        """Terminates an execution: signal, grace, then KILL. Returns when the job is gone."""
        self._call(self._executor.cancel(execution_id, signal=signal, grace=grace))

    def send_signal(self, execution_id: str, signal: int | str) -> None:
        """Sends 15, "TERM" or "SIGTERM" to the job's main process."""
        self._call(self._executor.send_signal(execution_id, signal))

    def pause(self, execution_id: str) -> None:
        """Freezes the job; idempotent while it is alive."""
        self._call(self._executor.pause(execution_id))

    def resume(self, execution_id: str) -> None:
        """Thaws the job; idempotent while it is alive."""
        self._call(self._executor.resume(execution_id))

    def remove(self, execution_id: str, *, force: bool = False) -> None:
        """Removes record, log and result; the id is free again."""
        self._call(self._executor.remove(execution_id, force=force))

    # -- what is known -------------------------------------------------------------------------------------------

    def list(
        self,
        *,
        statuses: Sequence[ExecutionStatus | str] | None = None,
        job_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        after: str | None = None,
        newest_first: bool = False,
    ) -> builtins.list[ExecutionInfo]:
        """Executions in order of creation, or the newest first; `after` is the last id of the page before."""
        return self._call(
            self._executor.list(
                statuses=statuses, job_id=job_id, labels=labels, limit=limit, after=after, newest_first=newest_first
            )
        )

    def get_status(self, execution_id: str) -> ExecutionStatus:
        """The status that is recorded now."""
        return self._call(self._executor.get_status(execution_id))

    def inspect(self, execution_id: str) -> ExecutionInfo:
        """All that is known of one execution, secrets out."""
        return self._call(self._executor.inspect(execution_id))

    def get_log_stream(self, request: LogStreamRequest, execution_id: str | None = None) -> LogStream:
        """The output of an execution that is pending, running or finished, as a blocking reader."""
        return LogStream(self._loop, self._call(self._executor.get_log_stream(request, execution_id)))

    def events(self, *, after: int | None = None, follow: bool = True) -> Events:
        """Every transition, numbered. None: from now on; 0: from the first that is kept."""
        return Events(self._loop, self._call(self._begin_events(after, follow)))

    async def _begin_events(self, after: int | None, follow: bool) -> AsyncIterator[Event]:
        return self._executor.events(after=after, follow=follow)  # "now" is a moment of the loop's

    def probe(self, engine: str | None = None) -> builtins.list[Probe]:
        """Whether each engine is usable here; if not, how to mend it."""
        return self._call(self._executor.probe(engine))

    def recover(self) -> RecoveryReport:
        """Settles what an earlier caller left; automatic on open."""
        return self._call(self._executor.recover())

    def cleanup(self, *, running: bool = False) -> CleanupReport:
        """Applies retention and removes leftovers."""
        return self._call(self._executor.cleanup(running=running))

    # -- what runs in it beside it -------------------------------------------------------------------------------

    def exec(
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
        """Runs a further command in a running job and waits for its end. Ctrl-C kills the command."""
        return self._call(
            self._executor.exec(
                execution_id,
                argv,
                stdin=stdin,
                environment=environment,
                working_directory=working_directory,
                user=user,
                timeout=timeout,
                max_output=max_output,
            )
        )

    def exec_session(
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
        """The same with live input and output."""
        opening = self._executor.exec_session(
            execution_id,
            argv,
            tty=tty,
            size=size,
            environment=environment,
            working_directory=working_directory,
            user=user,
            timeout=timeout,
        )
        return ExecSession(self._loop, self._call(opening))

    def attach(self, execution_id: str, *, from_start: bool = False) -> ExecSession:
        """The job itself as a session: its stdin where it is open, its terminal, its output from now or the start."""
        return ExecSession(self._loop, self._call(self._executor.attach(execution_id, from_start=from_start)))

    # -- powers that come with later issues ----------------------------------------------------------------------

    def copy_in(
        self,
        execution_id: str,
        source: str | os.PathLike[str] | int,
        target: str,
        *,
        follow: bool = False,
        keep_owner: bool = False,
    ) -> None:
        """Copies from the host into a running job."""
        self._call(self._executor.copy_in(execution_id, source, target, follow=follow, keep_owner=keep_owner))

    def copy_out(
        self,
        execution_id: str,
        source: str,
        target: str | os.PathLike[str] | int,
        *,
        follow: bool = False,
        keep_owner: bool = False,
    ) -> None:
        """Copies from a running job to the host."""
        self._call(self._executor.copy_out(execution_id, source, target, follow=follow, keep_owner=keep_owner))

    def stats(self, execution_id: str) -> Stats:
        """What a running job uses now."""
        return self._call(self._executor.stats(execution_id))

    def stats_stream(self, execution_id: str, *, interval: float = 1.0) -> Iteration[Stats]:
        """A sample at once and one each `interval` seconds, until the job ends."""
        return Iteration(self._loop, self._executor.stats_stream(execution_id, interval=interval))

    def snapshot(self, execution_id: str, name: str) -> None:
        """Saves a running job to disk under a name."""
        self._call(self._executor.snapshot(execution_id, name))

    def restore(self, name: str, execution_id: str, *, request: ExecutionRequest | None = None) -> None:
        """Lets a saved job go on."""
        self._call(self._executor.restore(name, execution_id, request=request))

    def images(self) -> builtins.list[ImageInfo]:
        """The images that the usable engines have here, the one used last first."""
        return self._call(self._executor.images())

    def pull_image(
        self,
        image: str,
        *,
        engine: str | None = None,
        platform: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> ImageInfo:
        """Brings what a name means now, ahead of its first job; `progress` is called in the loop's thread."""
        return self._call(self._executor.pull_image(image, engine=engine, platform=platform, progress=progress))

    def prune_images(self, *, unused_for: float = 0.0, size: int = 1 << 62) -> CleanupReport:
        """Takes away images that nobody used for so many seconds, and those unused longest until `size` is left."""
        return self._call(self._executor.prune_images(unused_for=unused_for, size=size))

    def remove_image(self, digest: str) -> int:
        """Takes an image away; the bytes that this freed."""
        return self._call(self._executor.remove_image(digest))
