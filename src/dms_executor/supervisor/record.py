"""The exit record that a shim leaves (docs/protocol.md, section 4)."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from ..engine import Exit
from ..errors import StateDamaged
from ..typed import known
from ..types import Usage

__all__ = ["command_errno", "decode_exit", "read_exit"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Usage(msgspec.Struct, frozen=True):
    cpu_ns: int | None = None
    memory_peak: int | None = None
    io_read: int | None = None
    io_write: int | None = None


class _Record(msgspec.Struct, frozen=True):
    version: int
    finished_at: int
    code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    stopped_by: Literal["deadline", "stop"] | None = None
    killed: bool = False
    lost: str | None = None
    started_at: int | None = None
    error: str | None = None
    errno: int = 0
    usage: _Usage = _Usage()


def _time(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _usage(record: _Record) -> Usage:
    used = record.usage
    return Usage(
        cpu_seconds=None if used.cpu_ns is None else used.cpu_ns / 1e9,
        peak_memory_bytes=used.memory_peak,
        io_read_bytes=used.io_read,
        io_write_bytes=used.io_write,
        oom_kills=record.oom_kills,
    )


def _error(record: _Record) -> str:
    text = record.error or ""
    return f"{text}: {os.strerror(record.errno)}" if record.errno else text


def read_exit(folder: Path) -> Exit | None:
    """How the execution in `folder` ended; None without a record. Blocking. Raises `StateDamaged`."""
    try:
        data = (folder / "exit").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return decode_exit(data, folder)


def decode_exit(data: bytes, folder: Path) -> Exit:
    """The record's text as the engine's word. Raises `StateDamaged`."""
    try:
        record = msgspec.json.decode(data, type=known(_Record))
    except msgspec.MsgspecError as error:
        raise StateDamaged(f"the exit record in {folder} is damaged: {error}") from error
    return Exit(
        code=record.code,
        signal=record.signal,
        oom_kills=record.oom_kills,
        stopped_by=record.stopped_by,
        killed=record.killed,
        lost=record.lost,
        started_at=None if record.started_at is None else _time(record.started_at),
        finished_at=_time(record.finished_at),
        usage=_usage(record),
        error=_error(record),
        errno=command_errno(record.errno, record.error or ""),
    )


def command_errno(number: int, text: str) -> int | None:
    """What execve(2) said of the job's command; None where shim and init speak of something else ("cannot ...")."""
    return None if number == 0 or text.startswith("cannot ") else number
