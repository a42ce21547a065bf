"""How a container ended, by the daemon's word and the init's report together."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ..engine import Exit
from ..typed import known
from .client import ApiError
from .report import Report

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Inspected", "ended", "look_at"]

_NEVER = "0001-01-01T00:00:00Z"
_KILLED = 137
_LOOKS, _LOOK = 50, 0.02


class _State(msgspec.Struct, rename="pascal"):
    status: str = ""
    running: bool = False
    paused: bool = False
    exit_code: int = 0
    error: str = ""
    started_at: str = _NEVER
    finished_at: str = _NEVER
    pid: int = 0
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class Inspected(msgspec.Struct, rename="pascal"):
    """What of a container's inspection is looked at."""

    id: str
    state: _State
    log_path: str = ""
    config: _Config = msgspec.field(default_factory=_Config)

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more, and something did."""
        return self.state.status in ("exited", "stopped", "dead", "removing")

    @property
    def has_started(self) -> bool:
        """Whether the daemon ever started it."""
        return self.state.started_at != _NEVER

    @property
    def finished_at(self) -> datetime | None:
        """When it ended, by the daemon's word."""
        return _moment(self.state.finished_at)


async def look_at(client: Client, container: str) -> Inspected | None:
    """None: there is no such container. Raises `ApiError`, `EngineUnreachable`."""
    looks = 0
    while True:
        try:
            return msgspec.convert(await client.get(f"/containers/{container}/json"), known(Inspected))
        except ApiError as error:
            if error.is_gone:
                return None
            looks += 1
            if not error.is_passing or looks == _LOOKS:
                raise
        await asyncio.sleep(_LOOK)


def ended(found: Inspected, report: Report, *, with_init: bool, scripts: bool, killed: bool) -> Exit:
    """The end of a container that has ended.

    The daemon's code 127 is the same for a job that exits so and for a command that is missing, and its 137 for
    `exit 137` and for KILL; its `OOMKilled` is true where only a child was killed: where the init could report, that
    counts. A container that something else than its job or we has ended is lost.
    """
    state = found.state
    finished = _moment(state.finished_at) or datetime.now(UTC)
    if report.is_over:
        return report.to_exit(killed=killed, now=finished)
    started = report.started_at if with_init else _moment(state.started_at)
    if started is None:
        why = state.error or "the container ended before its job ran"
        return Exit(error=why, finished_at=finished)
    code = state.exit_code
    if not with_init:
        oom = state.oom_killed and code != 0
        signal = code - 128 if (killed or oom) and 128 < code <= 128 + 64 else None
        kills = 1 if oom else 0
        return Exit(code=code, signal=signal, oom_kills=kills, killed=killed, started_at=started, finished_at=finished)
    if code == _KILLED and (killed or state.oom_killed):
        in_script = scripts and not report.scripts_done
        return Exit(
            code=None if in_script else code,
            signal=None if in_script else 9,
            oom_kills=0 if killed else 1,
            killed=killed,
            started_at=started,
            finished_at=finished,
        )
    lost = f"its container was ended from outside, with code {code}"
    return Exit(code=code or None, lost=lost, started_at=started, finished_at=finished)


def _moment(text: str) -> datetime | None:
    """RFC 3339 with up to nine digits of a second."""
    if text in ("", _NEVER):
        return None
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}+00:00")
