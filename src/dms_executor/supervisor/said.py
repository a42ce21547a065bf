"""What an init reported that has no socket to report to (docs/protocol.md, section 3)."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime, timedelta

import msgspec

from ..engine import Exit
from ..types import Usage
from .record import command_errno

__all__ = ["Report"]

_STARTED, _FAILED, _EXITED, _SCRIPT, _USAGE, _SCRIPTED, _WROTE, _DEADLINE, _OUTSIDE = (
    96,
    97,
    98,
    100,
    106,
    107,
    109,
    113,
    114,
)
_UNKNOWN = 2**64 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Report(msgspec.Struct, kw_only=True):
    """What the init has said so far. `status`: the raw wait status of the job; `error`: why it never ran.

    `timed_out`: its timeout was over, which the init has kept. `outside`: a signal came from beyond its pid namespace,
    neither from the job nor from what was executed beside it. `wrote`: the bytes of stdout and of stderr that the job
    has written in all, where the init has counted them.
    """

    started_at: datetime | None = None
    finished_at: datetime | None = None
    status: int | None = None
    script_failed: bool = False
    scripts_done: bool = False
    error: str = ""
    errno: int | None = None
    usage: Usage = Usage()
    wrote: tuple[int, int] | None = None
    timed_out: bool = False
    outside: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the init had no more to say."""
        return self.status is not None or bool(self.error)

    def to_exit(self, *, killed: bool, now: datetime) -> Exit:
        """The end of a job whose report is over."""
        signal = os.WTERMSIG(self.status) if self.status is not None and os.WIFSIGNALED(self.status) else None
        code = None
        if self.status is not None:
            code = 128 + signal if signal else os.waitstatus_to_exitcode(self.status)
        return Exit(
            code=code,
            signal=signal,
            oom_kills=self.usage.oom_kills,
            killed=killed,
            started_at=self.started_at,
            finished_at=self.finished_at or now,
            usage=self.usage,
            # Why a script was stopped is known better by who did it.
            error="" if self.script_failed and killed else self.error,
            errno=self.errno,
        )

    def take(self, data: bytes) -> None:
        """Frames as they were written; one that is not whole is left out."""
        while len(data) >= 8:
            length, kind = struct.unpack_from("<IB", data)
            if len(data) < 8 + length:
                break
            _take(self, kind, data[8 : 8 + length])
            data = data[8 + length :]


def _take(report: Report, kind: int, payload: bytes) -> None:
    try:
        if kind == _STARTED:
            report.started_at = _moment(struct.unpack("<Q", payload)[0])
        elif kind == _FAILED:
            number, text = struct.unpack_from("<I", payload)[0], payload[4:].decode("utf-8", "backslashreplace")
            report.error = f"{text}: {os.strerror(number)}" if number else text
            report.errno = command_errno(number, text)
        elif kind == _SCRIPT:
            error = f"provision script {payload[4:].decode('utf-8', 'replace')} {_ending(_status(payload))}"
            report.script_failed, report.error = True, error
        elif kind == _DEADLINE:
            report.timed_out = True
        elif kind == _OUTSIDE:
            report.outside = True
        elif kind == _SCRIPTED:
            report.scripts_done = True
        elif kind == _WROTE:
            report.wrote = struct.unpack("<2Q", payload)
        elif kind == _USAGE:
            _take_usage(report, struct.unpack("<6Q", payload))
        elif kind == _EXITED:
            report.status = _status(payload)
    except (struct.error, OverflowError, ValueError):
        return  # not the init's: a job has written over it


def _take_usage(report: Report, numbers: tuple[int, ...]) -> None:
    stamp, *counted = numbers
    cpu, memory, kills, read, written = (None if number == _UNKNOWN else number for number in counted)
    report.finished_at = _moment(stamp)
    report.usage = Usage(
        cpu_seconds=None if cpu is None else cpu / 1e9,
        peak_memory_bytes=memory,
        io_read_bytes=read,
        io_write_bytes=written,
        oom_kills=kills or 0,
    )


def _status(payload: bytes) -> int:
    """Raises `ValueError`: no process ends with that."""
    status: int = struct.unpack_from("<I", payload)[0] & 0xFFFF
    if not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
        raise ValueError(status)
    return status


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by signal {os.WTERMSIG(status)}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"


def _moment(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
