"""What a guest's agent is told of its job: the configuration that goes to it on the channel (docs/protocol.md, 10)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from ..capabilities import DEFAULT_CAPABILITIES
from ..images.users import User
from ..limits import Limits

__all__ = ["CPU_PERIOD", "GuestJob", "GuestVolume", "encode", "encode_helper"]

CPU_PERIOD = 100_000  # microseconds, as native/guest_limits.c has it
_VERSION = 1
_READ_ONLY, _INPUT, _HELPER = 1, 2, 4
_KINDS = {"folder": 1, "file": 2, "tmpfs": 3, "output": 4, "output-file": 5}
_NUMBERS = {  # https://github.com/torvalds/linux/blob/master/include/uapi/linux/capability.h
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}


class GuestVolume(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of the job. `kind`: `folder` and `file` are images on `device`, `tmpfs` has `size` bytes (0: the job's
    memory bounds it), `output` comes back as the stream of the number `size`; on `device` is
    what it holds already, if anything.
    """

    kind: str
    target: str
    device: str = ""
    size: int = 0


class GuestJob(msgspec.Struct, frozen=True, kw_only=True):
    """`has_input`: the job's stdin is a pipe, else empty. `disk`: the device that it may write to; None: a tmpfs.

    `outputs`: the device on which what it wrote comes back. `files`: by their path, read-only. `scripts`: encoded
    provision scripts. `seccomp`: the compiled filter. `terminal`: columns and rows. `network`: a packed `GuestNetwork`.
    """

    argv: list[str]
    environment: dict[str, str]
    directory: str
    user: User
    hostname: str
    limits: Limits
    has_input: bool = False
    read_only_root: bool = False
    disk: str | None = None
    outputs: str | None = None
    files: Mapping[str, bytes] = {}
    volumes: list[GuestVolume] = []
    scripts: bytes = b""
    seccomp: bytes = b""
    terminal: tuple[int, int] | None = None
    network: bytes = b""


def encode(job: GuestJob) -> bytes:
    """The entries."""
    return _encoded(_entries(job))


def encode_helper(words: Sequence[bytes]) -> bytes:
    """Of a helper for files: a mode of docs/protocol.md, section 8, with its own words."""
    entries = [(1, struct.pack("<I", _VERSION)), *((2, word) for word in words)]
    return _encoded([*entries, (8, struct.pack("<I", _INPUT | _HELPER))])


def _encoded(entries: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("<HHI", tag, 0, len(value)) + value for tag, value in entries)


def _entries(job: GuestJob) -> Iterator[tuple[int, bytes]]:
    yield 1, struct.pack("<I", _VERSION)
    yield from ((2, os.fsencode(word)) for word in job.argv)
    yield from ((3, os.fsencode(f"{name}={value}")) for name, value in job.environment.items())
    yield 4, os.fsencode(job.directory)
    ids = (job.user.uid, job.user.gid, *job.user.groups)
    yield 5, struct.pack(f"<{len(ids)}I", *ids)
    yield 6, os.fsencode(job.hostname)
    yield 8, struct.pack("<I", _READ_ONLY * job.read_only_root | _INPUT * job.has_input)
    if job.terminal is not None:
        yield 9, b"%dx%d" % job.terminal
    if job.scripts:
        yield 10, job.scripts
    if job.seccomp:
        yield 17, job.seccomp
    if job.network:
        yield 18, job.network
    limits = job.limits
    quota = 0 if limits.cpu is None else max(1000, round(limits.cpu * CPU_PERIOD))
    yield 11, struct.pack("<QQQ", limits.memory or 0, limits.pids or 0, quota)
    yield from ((12, os.fsencode(path) + b"\0" + data) for path, data in job.files.items())
    if job.disk is not None:
        yield 13, os.fsencode(job.disk)
    if job.outputs is not None:
        yield 16, os.fsencode(job.outputs)
    for volume in job.volumes:
        head = struct.pack("<IQ", _KINDS[volume.kind], volume.size)
        yield 14, head + os.fsencode(volume.device) + b"\0" + os.fsencode(volume.target)
    yield 15, struct.pack("<Q", sum(1 << _NUMBERS[name] for name in DEFAULT_CAPABILITIES))
