"""`ShimSpec`: all that a shim is told, and its encoding as the CONFIG frame (docs/protocol.md, section 2)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

from ..errors import InvalidRequest
from . import frames

__all__ = ["Bind", "DeviceNode", "Loop", "Network", "Overlay", "ShimSpec", "UsageSource", "encode", "milliseconds"]

_NO_DESCRIPTOR = b"\xff\xff\xff\xff"
_INPUTS = {"pipe": 1, "terminal": 2}
_LONGEST = 3.0e9  # seconds, as in native/keeper.c
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel's net/scm.h


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """The tree behind `fd`, mounted on `target` in the room.

    `restricted`: nosuid and nodev. `idmapped`: its owners are the job's `ids`.
    """

    fd: int
    target: str
    read_only: bool = True
    recursive: bool = True
    restricted: bool = True
    idmapped: bool = False


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """An overlay of folders in the room; `upper` and `work` lie in one mount."""

    target: str
    lower: str
    upper: str
    work: str


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """The ext4 image behind `fd`, mounted on `target` in the room."""

    fd: int
    target: str


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network namespace that the shim makes, and the program that connects it. All names are of the room.

    `pin`: the file that is the namespace; `sysfs`: a folder with its `/sys`, for a job that may not mount one; `ready`:
    the pipe on which the program (`argv`; descriptor 3 is the same pipe) says that it is ready.
    """

    pin: str = "network"
    sysfs: str | None = None
    ready: str = "network-ready"
    argv: list[str] = []


class DeviceNode(msgspec.Struct, frozen=True, kw_only=True):
    """A device node `dev/NAME` in the room, made with `mode` (its kind included) and the job's ids.

    `fd`: the host's own node, bound where the shim may make none.
    """

    name: str
    mode: int
    uid: int
    gid: int
    major: int
    minor: int
    fd: int | None = None


class UsageSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a number of `engine.Exit.usage` is read at the end.

    `key`: `cpu_ns`, `cpu_us`, `memory_peak`, `oom_kills`, `io_read` or `io_write`; the first source of a key that can
    be read counts. `field`: the word before the number; empty, the file's first number.
    """

    key: str
    path: str
    field: str = ""


class ShimSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a shim runs and how it ends it. Durations are seconds, sizes bytes.

    `folder`: the execution's folder, opened; a spare shim needs it, which was spawned before there was one.
    Descriptors (`folder`, `stdin`, `passed`, those of mounts) stay the caller's: the shim gets duplicates. An O_PATH
    `stdin` is opened by the shim, so that the job can never write to that file. `pidfile` empty and `report` false:
    `argv` itself is the job. `cgroup_join`: `cgroup.procs` files that the shim joins before the job is said to run;
    `cgroup_join_first`: before it is ready, for hierarchies in which the runtime places nothing; `cgroup_touch`: when
    all is over, to spare the next job a wait. `forget`: files in the folder that are removed once the job runs.
    `ids`: first id and number of ids that the job's own are mapped to; `hold`: a descriptor kept to the shim's end.
    `userns`: newuidmap, newgidmap and their maps, for a shim that is not root. `input`: a `pipe` that stays open
    for who attaches, once `stdin` is fed into it, or the `terminal` of the init's making; then there is no `stdin`.
    `patience`: seconds that the init has for killing the job itself; None: half a second. `suspends`: the init can
    save the job to disk. `resumed`: it goes on with one that was, and that started then (ns since the epoch).
    """

    argv: list[str]
    environment: dict[str, str]
    folder: int | None = None
    cgroup_join: list[str] = []
    cgroup_join_first: list[str] = []
    cgroup_touch: str | None = None
    room: str | None = None
    umounts: list[str] = []
    mounts: list[Bind | Overlay | Loop | DeviceNode] = []
    stdin: int | None = None
    passed: list[int] = []
    report: bool = True
    pidfile: str = "pid"
    timeout: float | None = None
    stop_signal: int = 15
    grace: float = 10.0
    log_cap: int
    segment: int
    usage: list[UsageSource] = []
    rmdirs: list[str] = []
    sync: bool = False
    drain: float = 0.5
    start: float = 110.0
    thaw: list[tuple[str, str]] = []
    forget: list[str] = []
    ids: tuple[int, int] | None = None
    hold: int | None = None
    userns: tuple[str, str, str, str] | None = None
    network: Network | None = None
    input: Literal["pipe", "terminal"] | None = None
    patience: float | None = None
    suspends: bool = False
    resumed: int | None = None


def milliseconds(seconds: float) -> int:
    """As the protocol has them; a century at most, since the shim counts nanoseconds in 64 bits."""
    return max(0, round(min(seconds, _LONGEST) * 1000))


def _text(*parts: str) -> bytes:
    """NUL-separated. Host paths may hold any bytes; `os.fsencode` gives them back as they were."""
    encoded = [os.fsencode(part) for part in parts]
    if any(b"\0" in part for part in encoded):
        raise InvalidRequest("an argument, a variable or a path holds a NUL byte")
    return b"\0".join(encoded)


class _Descriptors:
    """Collects the descriptors that go along, each once per use."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def index(self, fd: int) -> bytes:
        self.fds.append(fd)
        return _u32(len(self.fds) - 1)


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _mount_entry(mount: Bind | Overlay | Loop | DeviceNode, descriptors: _Descriptors) -> tuple[int, bytes]:
    if isinstance(mount, Overlay):
        return 9, _text(mount.target, mount.lower, mount.upper, mount.work)
    if isinstance(mount, Loop):
        return 25, descriptors.index(mount.fd) + _text(mount.target)
    if isinstance(mount, DeviceNode):
        numbers = struct.pack("<5I", mount.mode, mount.uid, mount.gid, mount.major, mount.minor)
        source = _NO_DESCRIPTOR if mount.fd is None else descriptors.index(mount.fd)
        return 47, numbers + source + _text(mount.name)
    flags = mount.read_only | mount.recursive << 1 | mount.restricted << 2 | mount.idmapped << 3
    return 8, descriptors.index(mount.fd) + _u32(flags) + _text(mount.target)


def _entries(spec: ShimSpec, descriptors: _Descriptors) -> Iterator[tuple[int, bytes]]:
    yield 1, _u32(frames.VERSION)
    if spec.folder is not None:
        yield 2, descriptors.index(spec.folder)
    yield from ((3, _text(argument)) for argument in spec.argv)
    yield from ((4, _text(f"{name}={value}")) for name, value in spec.environment.items())
    yield from ((5, _text(path)) for path in spec.cgroup_join)
    yield from ((26, _text(path)) for path in spec.cgroup_join_first)
    if spec.cgroup_touch is not None:
        yield 27, _text(spec.cgroup_touch)
    if spec.room is not None:
        yield 6, _text(spec.room)
    yield from ((7, _text(path)) for path in spec.umounts)
    yield from (_mount_entry(mount, descriptors) for mount in spec.mounts)
    if spec.stdin is not None:
        yield 10, descriptors.index(spec.stdin)
    yield from ((11, descriptors.index(fd)) for fd in spec.passed)
    if spec.input is not None:
        yield 43, _u32(_INPUTS[spec.input])
    yield 12, _u32(spec.report)
    if spec.pidfile:
        yield 13, _text(spec.pidfile)
    if spec.timeout is not None:
        yield 14, _u64(max(1, milliseconds(spec.timeout)))  # 0 would mean none
    yield 15, _u32(spec.stop_signal)
    yield 16, _u64(milliseconds(spec.grace))
    yield 17, _u64(spec.log_cap)
    yield 18, _u64(spec.segment)
    yield from ((19, _text(source.key, source.path, source.field)) for source in spec.usage)
    yield from ((20, _text(path)) for path in spec.rmdirs)
    yield 21, _u32(spec.sync)
    yield 22, _u64(milliseconds(spec.drain))
    yield from ((23, _text(path, text)) for path, text in spec.thaw)
    yield 29, _u64(milliseconds(spec.start))
    yield from ((28, _text(path)) for path in spec.forget)
    if spec.ids is not None:
        yield 30, _u32(spec.ids[0]) + _u32(spec.ids[1])
    if spec.hold is not None:
        yield 31, descriptors.index(spec.hold)
    if spec.userns is not None:
        yield 32, _text(*spec.userns)
    if spec.patience is not None:
        yield 48, _u64(milliseconds(spec.patience))
    if spec.suspends:
        yield 49, _u32(1)
    if spec.resumed is not None:
        yield 50, _u64(spec.resumed)
    if spec.network is not None:
        yield from _network_entries(spec.network)


def _network_entries(network: Network) -> Iterator[tuple[int, bytes]]:
    yield 39, _text(network.pin)
    if network.sysfs is not None:
        yield 40, _text(network.sysfs)
    yield 41, _text(network.ready)
    yield from ((42, _text(argument)) for argument in network.argv)


def encode(spec: ShimSpec) -> tuple[bytes, list[int]]:
    """The CONFIG frame and the descriptors to send along with its first byte. Raises `InvalidRequest`."""
    descriptors = _Descriptors()
    payload = b"".join(struct.pack("<HHI", tag, 0, len(value)) + value for tag, value in _entries(spec, descriptors))
    if len(payload) > frames.CONFIG_MAX:
        raise InvalidRequest(f"arguments, environment and mounts take {len(payload)} bytes, more than 1 MiB")
    if len(descriptors.fds) > _MOST_DESCRIPTORS:
        raise InvalidRequest(f"more than {_MOST_DESCRIPTORS} mounts and passed descriptors")
    return frames.pack(frames.CONFIG, payload), descriptors.fds
