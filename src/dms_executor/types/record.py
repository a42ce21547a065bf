"""What a caller gets back. Read back from disk, unknown fields are ignored: a newer release may have added some."""

from __future__ import annotations

import base64
import enum
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .bytesize import ByteSize
from .request import GPU, ExecutionRequest, PortMapping

__all__ = [
    "TERMINAL",
    "Capacity",
    "CleanupReport",
    "Event",
    "ExecResult",
    "ExecutionInfo",
    "ExecutionResult",
    "ExecutionStatus",
    "Failure",
    "ImageInfo",
    "Output",
    "Probe",
    "Progress",
    "Reason",
    "RecoveryReport",
    "Settings",
    "Stats",
    "Usage",
]

Reason = Literal[
    "exited", "signaled", "oom_killed", "timed_out", "cancelled", "start_failed", "outputs_failed", "engine_lost"
]


class ExecutionStatus(enum.StrEnum):
    """`pending -> running <-> paused -> success | failed | cancelled`; the last three are terminal."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({ExecutionStatus.SUCCESS, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


class _Record(msgspec.Struct, frozen=True):
    """The manners of everything that a caller gets back."""


class Usage(_Record, frozen=True, kw_only=True):
    """What the job used. None: the engine could not tell."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    oom_kills: int = 0


class Output(_Record, frozen=True, kw_only=True):
    """One collected output: `target` inside the job, `path` on the host."""

    target: str
    path: str


class Failure(_Record, frozen=True, kw_only=True):
    """Why the job's command never ran: `kind` is the class of `dms_executor.errors` that `start` raised.

    `errno`: what execve(2) said of the command. `cause_kind`: of an image that could not be pulled.
    """

    kind: str
    message: str
    mend: str = ""
    errno: int | None = None
    cause_kind: Literal["auth", "network", "platform", "limit"] | None = None


class ExecutionResult(_Record, frozen=True, kw_only=True):
    """The end of an execution.

    `stdout` and `stderr` are the last `Settings.result_output` bytes each, exact; the whole output is in the log.
    `exit_code` is None where nobody can know it; 128 + n where `signal` n ended the job. `killed`: the executor or
    the OOM killer signalled the job before it ended. `failure`: where the reason is `start_failed`.
    """

    execution_id: str
    status: ExecutionStatus
    reason: Reason
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    error_msg: str = ""
    killed: bool = False
    signal: int | None = None
    started_at: datetime | None = None
    finished_at: datetime
    usage: Usage = Usage()
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    outputs: list[Output] = []
    failure: Failure | None = None

    def to_builtins(self) -> dict[str, Any]:
        """The result as JSON types: output as text, with `stdout_base64` beside it where that lost something."""
        return _with_text(self)


class ExecResult(_Record, frozen=True, kw_only=True):
    """The end of an `exec`: the last `max_output` bytes of each stream. `timed_out` is a result, not an error."""

    exit_code: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    timed_out: bool = False

    def to_builtins(self) -> dict[str, Any]:
        """As `ExecutionResult.to_builtins`."""
        return _with_text(self)


def _with_text(result: ExecutionResult | ExecResult) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(result, builtin_types=(bytes,))
    for name in ("stdout", "stderr"):
        raw: bytes = fields[name]
        fields[name] = raw.decode("utf-8", "replace")
        if fields[name].encode() != raw:
            fields[f"{name}_base64"] = base64.b64encode(raw).decode()
    return fields


class Stats(_Record, frozen=True, kw_only=True):
    """What a running job uses now. `cpu_percent` needs an earlier sample (100 is one core)."""

    time: datetime
    cpu_seconds: float | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    memory_cache_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None


class Event(_Record, frozen=True, kw_only=True):
    """One transition, or what a pending execution waits for (`message`). `sequence` grows by at least one from event to
    event, the same in each process.
    """

    sequence: int
    time: datetime
    execution_id: str
    job_id: str
    status: ExecutionStatus
    reason: Reason | None = None
    message: str = ""


class ExecutionInfo(_Record, frozen=True, kw_only=True):
    """What is known of one execution. `request` has its secrets taken out.

    `waits_for`: what keeps one that is pending from its start, in its engine's words.
    """

    request: ExecutionRequest
    status: ExecutionStatus
    engine: str
    created_at: datetime
    reason: Reason | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    ports: list[PortMapping] = []
    engine_ids: dict[str, str] = {}
    saved_as: str | None = None
    loosened: list[str] = []
    unenforced: list[str] = []
    stale: bool = False
    waits_for: str = ""


class ImageInfo(_Record, frozen=True, kw_only=True):
    """An image that `engine` has here. `size` in bytes on disk; parts that images share are counted for each.

    `references`: what meant this image when it was last asked for. `pinned`: an execution uses it.
    """

    engine: str = ""
    digest: str
    references: list[str]
    platform: str
    size: int
    last_used_at: datetime
    pinned: bool


class Capacity(_Record, frozen=True, kw_only=True):
    """What an engine can give to all its executions together; None: it cannot tell, or there is no bound."""

    cpu: float | None = None
    memory: ByteSize | None = None
    disk: ByteSize | None = None
    pids: int | None = None
    gpus: list[GPU] | None = None


class Probe(_Record, frozen=True, kw_only=True):
    """Whether an engine is usable here. If not, `problem` says what is missing and `mend` how to mend it.

    `mend` of a usable engine says what would give it more capabilities.
    """

    engine: str
    usable: bool
    version: str = ""
    capabilities: frozenset[str] = frozenset()
    capacity: Capacity | None = None
    problem: str = ""
    mend: str = ""


class Progress(_Record, frozen=True, kw_only=True):
    """How far a preparation is: `done` of `total` `unit`s of `what`.

    `waits`: nothing goes on before something else changes, and `what` says why: `inspect` and the events say it, too.
    """

    what: str
    done: int
    total: int | None = None
    unit: str = "bytes"
    waits: bool = False


class CleanupReport(_Record, frozen=True, kw_only=True):
    """What `cleanup` took away."""

    executions: int = 0
    images: int = 0
    leftovers: int = 0
    bytes_freed: int = 0


class RecoveryReport(_Record, frozen=True, kw_only=True):
    """What `recover` found: ids still followed, finished meanwhile, undone, lost; tokens of leftovers destroyed."""

    adopted: list[str] = []
    finished: list[str] = []
    undone: list[str] = []
    lost: list[str] = []
    leftovers: list[str] = []


if TYPE_CHECKING:
    EngineSettings = dict[str, Any] | msgspec.Struct
else:
    EngineSettings = dict[str, Any]  # a struct is taken apart before (codec)


class Settings(_Record, frozen=True, kw_only=True):
    """How this executor works. Sizes in bytes, times in seconds.

    `durability`: "process" survives kill -9 of everything but the kernel; "power" a power cut too (its cost is in
    docs/decisions.md). `capacity` overrides what an engine reports. `engines` maps an engine's name to its settings,
    the engine's struct or a dict of the same fields.
    When `cleanup` comes, images go that nobody used for `image_retention`, and those unused longest while an engine has
    more than `image_cache` of them.
    """

    log_cap: ByteSize = msgspec.field(default_factory=lambda: ByteSize("1GiB"))
    result_output: ByteSize = msgspec.field(default_factory=lambda: ByteSize("1MiB"))
    grace: float = 10.0
    prepare_timeout: float = 1800.0
    retention: float = 7 * 86400.0
    record_retention: float = 30 * 86400.0
    image_cache: ByteSize = msgspec.field(default_factory=lambda: ByteSize("32GiB"))
    image_retention: float = 30 * 86400.0
    capacity: Capacity | None = None
    durability: Literal["process", "power"] = "process"
    engines: dict[str, EngineSettings] = {}
