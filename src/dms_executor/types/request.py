"""What a caller hands in: `ExecutionRequest` and its parts. JSON names are the field names."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .bytesize import ByteSize

__all__ = [
    "GPU",
    "ExecutionRequest",
    "LogStreamRequest",
    "PortMapping",
    "Resources",
    "SpecConfig",
    "StorageVolume",
    "Stream",
]

Stream = Literal["stdout", "stderr"]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manners of everything that a caller hands in: unknown fields are refused."""


class SpecConfig(_Request, frozen=True, kw_only=True):
    """Which engine runs the job (`type`, None: the first usable one by rank) and that engine's `params`."""

    type: str | None = None
    params: dict[str, Any] = {}


class GPU(_Request, frozen=True, kw_only=True):
    """One GPU, by `index`, `name` or `pci_address` ("0000:01:00.0")."""

    vendor: Literal["nvidia", "amd", "intel"]
    index: int | None = None
    name: str | None = None
    pci_address: str | None = None


class Resources(_Request, frozen=True, kw_only=True):
    """Limits of the job; what is named here is reserved against the engine's capacity.

    `cpu` in cores (0.5 is half of one), `memory` and `disk` in bytes, `pids` a number of tasks.
    None: the executor's default, which caps and does not reserve.
    """

    cpu: float | None = None
    memory: ByteSize | None = None
    disk: ByteSize | None = None
    gpus: list[GPU] = []
    pids: int | None = None


class StorageVolume(_Request, frozen=True, kw_only=True):
    """A mount of the job. `source` is a host path (bind) or a name (volume), `target` absolute inside.

    Inputs are read-only unless said; an output's `source` defaults to `results_dir/outputs/<basename of target>`.
    `size` is a tmpfs's, in bytes.
    """

    type: Literal["bind", "tmpfs", "volume"] = "bind"
    source: str | None = None
    target: str
    read_only: bool | None = None
    size: ByteSize | None = None


class PortMapping(_Request, frozen=True, kw_only=True):
    """A port of the job made reachable on the host. `host_port` 0: chosen, shown by `inspect`."""

    container_port: int
    host_ip: str = "127.0.0.1"
    host_port: int = 0
    protocol: Literal["tcp", "udp"] = "tcp"


class ExecutionRequest(_Request, frozen=True, kw_only=True, weakref=True):
    """A job and all that it may use. Times in seconds.

    `secret_environment` is never stored in the database; `provision_scripts` maps names to scripts that run,
    in name order, before the job; `persist_logs` None is the executor's default, 0 drops the log once a
    result was delivered; `devices` are names of the Container Device Interface (`vendor.com/class=name`);
    `stdin` and `stdin_file` exclude each other; `stdin_open`: after them the job's stdin stays open, for
    `Executor.attach`; `tty`: the job runs on a terminal of `tty_size` (columns, rows; None: 80, 24), whose input is
    open likewise; `init=False` is for images that bring an init of their own.
    """

    job_id: str
    execution_id: str
    engine_spec: SpecConfig
    resources: Resources = Resources()
    inputs: list[StorageVolume] = []
    outputs: list[StorageVolume] = []
    results_dir: str | None = None
    timeout: float | None = None
    prepare_timeout: float | None = None
    network: str = "none"
    ports: list[PortMapping] = []
    environment: dict[str, str] = {}
    secret_environment: dict[str, str] = {}
    provision_scripts: dict[str, bytes] = {}
    persist_logs: float | None = None
    labels: dict[str, str] = {}
    devices: list[str] = []
    stdin: bytes = b""
    stdin_file: str | None = None
    stdin_open: bool = False
    tty: bool = False
    tty_size: tuple[int, int] | None = None
    init: bool = True


class LogStreamRequest(_Request, frozen=True, kw_only=True):
    """Which part of an execution's output to stream.

    `tail=True`: only what is written after the call; `follow`: go on until the execution ends; `last`: the last
    n lines; `since`: an aware ISO time or seconds back; `streams`: which of the two; `timestamps`: each line
    begins with its time.
    """

    execution_id: str
    job_id: str | None = None
    tail: bool = False
    follow: bool = False
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    since: str | float | None = None
    last: int | None = None
    timestamps: bool = False
