"""A row of the journal: one incarnation of one execution."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..engine import Exit, Handle, Prepared
from ..types import TERMINAL, ExecutionRequest, ExecutionResult, ExecutionStatus, Reason, decode

__all__ = ["COLUMNS", "Cause", "Intent", "Phase", "Row", "row_of"]

Phase = Literal["accepted", "created", "running", "ended", "finished", "done", "removing"]
Cause = Literal["cancelled", "timed_out"]


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Why and how an execution is being stopped; the first that is committed stands. Times in ns and seconds."""

    cause: Cause
    signal: int
    grace: float
    time: int


class Row(msgspec.Struct, frozen=True):
    """One row, as the columns stand in the table. Times in nanoseconds since the epoch."""

    seq: int
    id: str
    token: str
    job_id: str
    engine: str
    phase: Phase
    status: ExecutionStatus
    reason: Reason | None
    message: str
    owner: str | None
    stopper: str | None
    request: ExecutionRequest
    prepared: Prepared | None
    handle: Handle | None
    intent: Intent | None
    exit: Exit | None
    result: ExecutionResult | None
    exit_code: int | None
    created_at: int
    started_at: int | None
    finished_at: int | None
    delivered_at: int | None
    expired: bool

    @property
    def terminal(self) -> bool:
        """Whether the execution has its final status."""
        return self.status in TERMINAL


COLUMNS = Row.__struct_fields__
STRUCTS: dict[str, type] = {
    "request": ExecutionRequest,
    "prepared": Prepared,
    "handle": Handle,
    "intent": Intent,
    "exit": Exit,
    "result": ExecutionResult,
}


def row_of(values: tuple[Any, ...]) -> Row:
    """A row of the table, its columns in the order of `COLUMNS`."""
    named = dict(zip(COLUMNS, values, strict=True))
    for name, kind in STRUCTS.items():
        if named[name] is not None:
            named[name] = decode(named[name], kind)
    named["status"] = ExecutionStatus(named["status"])
    named["expired"] = bool(named["expired"])
    return Row(**named)
