"""What was sent to a job, noted in its execution's folder, so that whoever hears of its end knows what that came of.

Never by comparing a node's clock with this host's: of a stop and a timeout that both came, the first is known by when
the job was let go and when the stop was sent, both by this host's clock.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ..engine import Execution, Exit

__all__ = ["SIGNALLED", "STOPPED", "Sent", "forget", "note", "note_go", "sent_to"]

SIGNALLED, STOPPED = "signalled", "stopped"
_GO = "let-go"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Sent(msgspec.Struct, frozen=True):
    """`signalled`: anything; `stopped`: a stop. `go`: between which two moments it was let go, `at`: when it was
    stopped, in ns of this host's clock.
    """

    signalled: bool = False
    stopped: bool = False
    at: int = 0
    go: tuple[int, int] | None = None

    def judged(self, found: Exit, timeout: float | None) -> Exit:
        """Its end, with what came first where both a stop and its timeout came."""
        both = self.stopped and found.stopped_by == "deadline" and timeout is not None
        began = self._began(found.started_at) if both else None
        if began is None or timeout is None or self.at >= began + timeout * 1e9:
            return found
        return msgspec.structs.replace(found, stopped_by="stop")

    def _began(self, said: datetime | None) -> int | None:
        """The node's word where its clock goes with ours, as far as one can see; else when we heard of it."""
        stamp = (said - _EPOCH) // timedelta(microseconds=1) * 1000 if said is not None else None
        if self.go is None or (stamp is not None and self.go[0] <= stamp <= self.go[1]):
            return stamp
        return self.go[1]


def note(x: Execution, names: tuple[str, ...]) -> list[str]:
    """Blocks. Which of them it had not been sent before."""
    new = []
    for name in names:
        try:
            (x.folder / name).touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            continue
        except FileNotFoundError:  # it is over, and its folder taken away
            continue
        new.append(name)
    return new


def forget(x: Execution, names: list[str]) -> None:
    """Blocks. That was not sent after all."""
    for name in names:
        (x.folder / name).unlink(missing_ok=True)


def note_go(x: Execution, began: int) -> None:
    """Blocks. It was let go since `began`, and runs."""
    fd = os.open(x.folder / _GO, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"%d %d" % (began, time.time_ns()))
    finally:
        os.close(fd)


def sent_to(x: Execution) -> Sent:
    """Blocks."""
    stopped = x.folder / STOPPED
    try:
        at = stopped.stat().st_mtime_ns
    except FileNotFoundError:
        at = 0
    return Sent((x.folder / SIGNALLED).exists(), at != 0, at, _go(x.folder / _GO))


def _go(path: Path) -> tuple[int, int] | None:
    try:
        first, last = map(int, path.read_bytes().split())
    except (FileNotFoundError, ValueError):
        return None
    return first, last
