"""`Engine`: all that an engine owes, and the optional powers that are its capabilities.

`Executor` owns ids, status, intents, result and retention; an engine owns only its own world. Every struct here is
JSON. A single `launch` could not be crash-safe, so letting a job go (`start`) is a step of its own: what `create` made
has run nothing yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import msgspec

from .copying import Found
from .errors import NotSupported
from .policy import Policy
from .types import ExecutionRequest, ImageInfo, Output, PortMapping, Probe, Progress, Stats, Stream, Usage

__all__ = [
    "Attached",
    "Attaches",
    "Channel",
    "Chunk",
    "Command",
    "Copies",
    "Engine",
    "EngineContext",
    "Execs",
    "Execution",
    "Exit",
    "Handle",
    "Images",
    "Measures",
    "Observed",
    "Pauses",
    "Prepared",
    "Report",
    "Snapshots",
    "merged_environment",
]

Report = Callable[[Progress], None]


class _Data(msgspec.Struct, frozen=True):
    """The manners of all data of this contract."""


class Execution(_Data, frozen=True, kw_only=True):
    """All that an engine is told of an execution; committed before its first call.

    `token` is new for each incarnation and names all that is created outside `folder`. `request` is whole, with secrets
    while the job has not run yet; an adopter sees it without.
    """

    id: str
    token: str
    executor_id: str
    folder: Path
    request: ExecutionRequest


class Prepared(_Data, frozen=True, kw_only=True):
    """What `prepare` made. `state` says what was granted, too: root, device and inode of each host path."""

    state: dict[str, Any] = {}
    stop_signal: int = 15
    loosened: list[str] = []
    unenforced: list[str] = []


class Handle(_Data, frozen=True, kw_only=True):
    """Finds the execution again from any process: boot id, pid and start time; a container's id; a name.

    `loosened`: what could not be given after all when it was created, beside `Prepared.loosened`. `saved`: the name
    under which it is on disk, or is being brought there; the core's own.
    """

    state: dict[str, Any] = {}
    ports: list[PortMapping] = []
    engine_ids: dict[str, str] = {}
    loosened: list[str] = []
    saved: str | None = None


class Exit(_Data, frozen=True, kw_only=True):
    """How the engine saw it end. `code` None: unknown; `lost`: why the engine lost it; `error`: why it never ran,
    `errno`: what execve(2) said of the command.
    """

    code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    stopped_by: Literal["deadline", "stop"] | None = None
    killed: bool = False
    lost: str | None = None
    started_at: datetime | None = None
    finished_at: datetime
    usage: Usage = Usage()
    error: str = ""
    errno: int | None = None


class Observed(_Data, frozen=True, kw_only=True):
    """One execution as `survey` finds it."""

    phase: Literal["created", "running", "paused", "suspending", "suspended", "ended"]
    handle: Handle | None = None
    exit: Exit | None = None


class EngineContext(_Data, frozen=True, kw_only=True):
    """What an engine is opened with. `settings` is the engine's own struct, `durable`: records survive a power cut."""

    state_dir: Path
    executor_id: str
    settings: Any
    policy: Policy
    grace: float = 10.0
    prepare_timeout: float = 1800.0
    log_cap: int = 2**30
    durable: bool = False


class Chunk(_Data, frozen=True, kw_only=True):
    """Output that an engine which keeps no log hands over; `cursor` resumes after it.

    `lost`: bytes of each stream that are missing before it (at least so many, where nobody knows the number).
    """

    stream: Stream
    time: datetime
    data: bytes
    cursor: bytes
    lost: dict[Stream, int] = {}


class Engine(ABC):
    """The contract of an engine, in the order in which the calls come.

    Foreign errors are mapped to `dms_executor.errors` inside the engine. Each call to an outside part has its own
    deadline. Nothing blocks the event loop.
    """

    name: ClassVar[str]
    rank: ClassVar[int]
    """Which engine is taken when a request names none: the lowest rank that is usable."""
    params: ClassVar[type[msgspec.Struct]]
    settings: ClassVar[type[msgspec.Struct]]
    keeps_log: ClassVar[bool]
    """A survivor (the shim) writes `folder/log`; else the holder of the log's lock pulls `output()`."""
    keeps_deadline: ClassVar[bool]
    """A timeout holds with no caller alive; else the executor leaves a keeper behind."""
    shares_clock: ClassVar[bool] = True
    """Its times are of this host's clock; else `Exit.stopped_by` alone says what has ended a job that had begun."""

    @classmethod
    @abstractmethod
    def open(cls, context: EngineContext) -> AbstractAsyncContextManager[Self]:
        """Opens caches and a daemon's session. Returns within seconds, also when the daemon does not answer."""

    @abstractmethod
    async def probe(self) -> Probe:
        """Usable here? Cached by what it looked at; never in `run`'s way."""

    @abstractmethod
    async def validate(self, request: ExecutionRequest) -> None:
        """Refuses what this engine lacks (`NotSupported`), bad params (`InvalidRequest`), paths (`PolicyDenied`).

        Creates nothing.
        """

    @abstractmethod
    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """Pulls the image, checks the volumes. May be cancelled at any await; `destroy(x, None)` undoes it."""

    @abstractmethod
    async def create(self, x: Execution, p: Prepared) -> Handle:
        """Makes all but the job's first instruction. Idempotent by token."""

    @abstractmethod
    async def start(self, x: Execution, h: Handle) -> datetime:
        """The go; when the job runs. Idempotent. Raises `StartFailed` if it never ran, else `EngineUnreachable`."""

    async def withdraw(self, x: Execution, h: Handle) -> bool:
        """Of one that `survey` saw created and not running, whose caller has died: the job never runs from now on.

        False: it has been let go after all. For engines whose go can be on its way without its caller. Raises
        `EngineUnreachable`.
        """
        return True

    @abstractmethod
    async def survey(self) -> Mapping[str, Observed]:
        """Token -> what exists of this executor_id. Raises `EngineUnreachable`."""

    async def survey_of(self, tokens: Collection[str]) -> Mapping[str, Observed]:
        """As `survey`, for who asks about these alone; more may be told. An engine whose survey grows with history
        implements it, so that opening a state folder does not. Raises `EngineUnreachable`."""
        return await self.survey()

    @abstractmethod
    async def watch(self, x: Execution, h: Handle) -> Exit:
        """Waits for the end. The same answer in every process; harmless to cancel. Raises `EngineUnreachable`."""

    @abstractmethod
    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """Sends a signal to the job's main process. Raises `ExecutionNotRunning`."""

    @abstractmethod
    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """`signum`, then KILL after `grace` seconds. Returns once a survivor has it in hand. No error if it ended."""

    @abstractmethod
    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """Brings home outputs. Idempotent; before `destroy`; beneath what was granted, whatever the policy now."""

    @abstractmethod
    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """Takes away all that bears the token outside the log and the records, in any phase. Idempotent."""

    def output(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        """The job's output after a cursor; only of engines that keep no log of their own."""
        raise NotSupported(f"engine {self.name} keeps its own log", engine=self.name, what="output")


@runtime_checkable
class Pauses(Protocol):
    """The power `pause`."""

    async def pause(self, x: Execution, h: Handle) -> None: ...
    async def resume(self, x: Execution, h: Handle) -> None: ...


@runtime_checkable
class Snapshots(Protocol):
    """The power `snapshot`: a running job is saved to disk, and goes on later, also after a reboot of the host.

    While it is being saved, `survey` says "suspending", `pause` is refused; a stop comes before, with signal and grace.
    While it is saved, `survey` says "suspended", `watch` waits, `stop` ends it at once, and its timeout goes on.
    """

    async def snapshot(self, x: Execution, p: Prepared, h: Handle) -> None:
        """Returns once all of it is on the disk and nothing runs. Nothing that it wrote is lost.

        Idempotent, also while it is in hand: then it is carried out, caller or not. Raises `ExecutionNotRunning`,
        `NotSupported` (while something is open in it that would be cut off), `ResourcesUnavailable` (no room for it),
        `SnapshotFailed`: it goes on as it was; `EngineUnreachable`: that is not known.
        """
        ...

    async def restore(self, x: Execution, p: Prepared, h: Handle) -> Handle:
        """Returns once it runs again, with what finds it then. It goes on at most once: who fails leaves it saved.

        Raises `ExecutionNotRunning` (nothing is saved), `StartFailed`, `ResourcesUnavailable`.
        """
        ...


@runtime_checkable
class Measures(Protocol):
    """The power `stats`."""

    async def stats(self, x: Execution, h: Handle) -> Stats: ...


@runtime_checkable
class Copies(Protocol):
    """The power `copy`: files of a running job as a tar stream (POSIX pax) through a descriptor.

    Paths are absolute and resolved in the job's root as its root user would; the descriptor stays the caller's. Both
    archives give what is to be told (left out, changed meanwhile) and raise `CopyFailed`.
    """

    async def look(self, x: Execution, h: Handle, path: bytes) -> Found: ...

    async def archive_out(
        self, x: Execution, h: Handle, path: bytes, name: bytes, sink: int, *, follow: bool
    ) -> list[str]:
        """`path` and all in it, as entries `name/...`; `follow`: a link in its place is followed."""
        ...

    async def archive_in(self, x: Execution, h: Handle, folder: bytes, source: int, *, keep_owner: bool) -> list[str]:
        """Into a folder that is there, as the job's root's unless owners are kept."""
        ...


class Command(_Data, frozen=True, kw_only=True):
    """A further command in a running job.

    `environment` is added to the job's own; `working_directory` and `user` None: the job's. `terminal`: columns and
    rows; None: three separate streams.
    """

    argv: list[str]
    environment: dict[str, str] = {}
    working_directory: str | None = None
    user: str | None = None
    terminal: tuple[int, int] | None = None


class Channel(Protocol):
    """What an engine hands over of a command that runs in a job. Bounded both ways: who does not read stops it."""

    async def read(self) -> tuple[Stream, bytes] | None:
        """What came next, None at the end: all streams are closed, or the command ended and only a child holds them.

        With a terminal all is stdout. One reader at a time; harmless to cancel.
        """

    async def write(self, data: bytes) -> None:
        """All of it to the command's stdin. Raises `ExecutionNotRunning` where nobody reads that any more."""

    def close_stdin(self) -> None:
        """The command reads the end of its input; on a terminal what its user types for that. Idempotent."""

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal; does nothing without one."""

    def signal(self, signum: int) -> None:
        """To the command's main process. Raises `ExecutionNotRunning`."""

    async def wait(self) -> int | None:
        """The exit code once the main process has ended (128 + n for a signal); None: nobody can know it."""

    async def kill(self) -> None:
        """The command and all that came of it; returns once none of it is left. No error where it has ended."""

    async def aclose(self) -> None:
        """Kills what has not ended, and gives everything back. Idempotent."""


@runtime_checkable
class Execs(Protocol):
    """The power `exec`."""

    async def exec(self, x: Execution, h: Handle, command: Command) -> Channel:
        """Returns once the command runs. Raises `StartFailed`, `ExecutionNotRunning`: with status "paused" for a paused
        job, which whatever process may have paused.

        The channel's owner that dies in any way takes the command along, and leaves the job.
        """


class Attached(Protocol):
    """What an engine hands over of a job's own stdin, or of its terminal. Its output is in the log."""

    async def write(self, data: bytes) -> None:
        """All of it, in the order of the calls. Raises `ExecutionNotRunning` where no input is open (any more)."""

    def close_stdin(self) -> None:
        """The job reads the end of its input after all that was written; on a terminal what its user types for that.

        For good, whoever else is attached. Idempotent.
        """

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal; does nothing without one."""

    def signal(self, signum: int) -> None:
        """To the job's main process. Raises `ExecutionNotRunning`."""

    async def aclose(self) -> None:
        """Leaves the job alone, and its input open. What was written still counts. Idempotent."""


@runtime_checkable
class Attaches(Protocol):
    """The power `attach`."""

    async def attach(self, x: Execution, h: Handle) -> Attached:
        """To a job that runs, by any number at a time, from any process. Raises `ExecutionNotRunning`.

        Whoever is attached and dies leaves the job and its input as they are.
        """


@runtime_checkable
class Images(Protocol):
    """The power `images`: images that outlive the executions that use them. A digest is "sha256:" and 64 hex digits.

    An engine whose daemon keeps images of others, too, lists and takes away only what it answers for.
    """

    async def images(self) -> list[ImageInfo]:
        """What is here now."""
        ...

    async def pull_image(self, image: str, platform: str | None, report: Report) -> ImageInfo:
        """What the name means now, ahead of its first job. Raises `ImageNotFound`, `ImagePullFailed`."""
        ...

    async def remove_image(self, digest: str) -> int:
        """The bytes that this freed. Raises `ImageNotFound`, `ImageInUse`; what an execution uses never goes."""
        ...

    async def prune_images(self, *, age: float, size: int) -> tuple[int, int]:
        """Takes away what nobody used for `age` s, then what was unused longest until `size` bytes are left.

        Gives how many images went, and how many bytes that freed.
        """
        ...


def merged_environment(
    image: Mapping[str, str], params: Mapping[str, str], request: ExecutionRequest
) -> dict[str, str]:
    """The job's environment: image, then params, then request, then secrets (section 12 of the specification)."""
    return {**image, **params, **request.environment, **request.secret_environment}
