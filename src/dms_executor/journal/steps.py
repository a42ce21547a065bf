"""The durable steps of an execution as SQL: each a compare-and-set, each within a transaction of the caller's.

A file of the execution's folder is renamed into place before its row says so.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ..engine import Execution, Exit, Handle, Prepared
from ..errors import ExecutionAlreadyFinished, ExecutionAlreadyStarted, ExecutionNotRunning, InvalidRequest
from ..types import TERMINAL, Capacity, ExecutionRequest, ExecutionResult, ExecutionStatus, decode, encode
from . import files, rebuild
from .clock import nanoseconds
from .reserved import OPEN, reserve
from .row import COLUMNS, Intent, Row, row_of

__all__ = ["SAVED_AS", "Decide", "Steps", "unclaim"]

Decide = Callable[[Intent | None], ExecutionResult]
SAVED_AS = "phase='running' AND json_extract(CAST(handle AS TEXT), '$.saved')=?"
_READ_WITHIN = 60 * 10**9
"""Nanoseconds for which a result is kept for waiters elsewhere who have not read it when it goes."""


class Steps:
    """The steps of one owner. Every method blocks, and runs on the journal's thread."""

    def __init__(self, owner: str, folder: Callable[[str], Path], *, durable: bool) -> None:
        self._owner = owner
        self._folder = folder
        self._durable = durable

    def write_request(self, x: Execution, engine: str) -> None:
        """The folder of a claim, with its first files."""
        files.make_folder(x.folder)
        request = x.request
        record = rebuild.RequestRecord(
            id=x.id,
            token=x.token,
            engine=engine,
            created_at=time.time_ns(),
            owner=self._owner,
            request=_public(request),
        )
        files.put(x.folder, files.REQUEST, encode(record), durable=self._durable)
        if request.stdin:
            files.put(x.folder, files.STDIN, request.stdin, durable=self._durable)
        if request.secret_environment:
            files.put(x.folder, files.SECRETS, encode(request.secret_environment), durable=False)

    def claim(self, database: sqlite3.Connection, x: Execution, engine: str, capacity: Capacity | None) -> Execution:
        """accepted: the row, or why there can be none; gives the execution with the GPUs that it gets."""
        taken = database.execute("SELECT status FROM executions WHERE id=?", (x.id,)).fetchone()
        if taken is not None:
            _refuse(x.id, taken[0])
        if capacity is not None:
            x = reserve(database, x, engine, capacity)
        now = time.time_ns()
        named = x.request.resources
        database.execute(
            "INSERT INTO executions (id, token, job_id, engine, phase, status, owner, request, created_at,"
            " cpu, memory, disk, pids) VALUES (?, ?, ?, ?, 'accepted', 'pending', ?, ?, ?, ?, ?, ?, ?)",
            (x.id, x.token, x.request.job_id, engine, self._owner, encode(_public(x.request)), now)
            + (named.cpu, _int(named.memory), _int(named.disk), named.pids),
        )
        _announce(database, x.token, ExecutionStatus.PENDING, now)
        return x

    def waiting(self, database: sqlite3.Connection, token: str, why: str) -> bool:
        """What an accepted one waits for, until it says otherwise or is created."""
        changed = database.execute(
            "UPDATE executions SET message=? WHERE token=? AND phase='accepted' AND message != ? RETURNING seq",
            (why, token, why),
        ).fetchone()
        if changed is not None:
            _announce(database, token, ExecutionStatus.PENDING, time.time_ns(), None, why)
        return changed is not None

    def created(self, database: sqlite3.Connection, token: str, prepared: Prepared, handle: Handle) -> Intent | None:
        """accepted -> created."""
        record = rebuild.HandleRecord(prepared=prepared, handle=handle)
        files.put(self._folder(token), files.HANDLE, encode(record), durable=self._durable)
        changed = database.execute(
            "UPDATE executions SET phase='created', message='', prepared=?, handle=? WHERE token=? AND phase='accepted'"
            " RETURNING intent",
            (encode(prepared), encode(handle), token),
        ).fetchone()
        return _intent(changed)

    def running(self, database: sqlite3.Connection, token: str, started_at: int) -> Intent | None:
        """created -> running."""
        self._note(token, files.STARTED, rebuild.StartedRecord(started_at=started_at))
        changed = database.execute(
            "UPDATE executions SET phase='running', status='running', started_at=? WHERE token=? AND phase='created'"
            " RETURNING intent",
            (started_at, token),
        ).fetchone()
        if changed is not None:
            _announce(database, token, ExecutionStatus.RUNNING, time.time_ns())
        return _intent(changed)

    def paused(self, database: sqlite3.Connection, token: str, status: ExecutionStatus) -> bool:
        """running <-> paused."""
        changed = database.execute(
            "UPDATE executions SET status=? WHERE token=? AND phase='running' AND status != ? RETURNING seq",
            (status, token, status),
        ).fetchone()
        if changed is not None:
            _announce(database, token, status, time.time_ns())
        return changed is not None

    def saving(self, database: sqlite3.Connection, token: str, name: str) -> Handle | None:
        """The name, for one that runs."""
        taken = database.execute(f"SELECT id FROM executions WHERE {SAVED_AS} AND token != ?", (name, token)).fetchone()
        if taken is not None:
            raise InvalidRequest(
                f"{name} is there already: execution {taken[0]} is saved as that",
                path="$.name",
                mend=f"Choose another name, or restore or cancel {taken[0]}",
            )
        found = self._saveable(database, token)
        if found is None:
            return None
        prepared, handle, status = found
        if handle.saved is not None and handle.saved != name:
            raise ExecutionNotRunning(f"it is saved as {handle.saved}, or being saved as that", status=status)
        if handle.saved is None and status is ExecutionStatus.PAUSED:
            self._tell(database, token, ExecutionStatus.RUNNING)  # it is let go to come to its stand
        handle = msgspec.structs.replace(handle, saved=name)
        self._put_handle(database, token, prepared, handle)
        return handle

    def saved(self, database: sqlite3.Connection, token: str, name: str) -> bool:
        """It is on the disk under that name: paused. False: another step has come between, and stands."""
        found = self._saveable(database, token)
        if found is None or found[1].saved != name:
            return False
        self._tell(database, token, ExecutionStatus.PAUSED)
        return True

    def unsaved(
        self, database: sqlite3.Connection, token: str, name: str | None, status: ExecutionStatus, handle: Handle | None
    ) -> None:
        """It is not, or no longer, on the disk under that name. `handle`: what finds it now."""
        found = self._saveable(database, token)
        if found is None or found[1].saved not in (None, name):
            return
        now = msgspec.structs.replace(handle or found[1], saved=None)
        if now != found[1]:
            self._put_handle(database, token, found[0], now)
        self._tell(database, token, status)

    def _saveable(self, database: sqlite3.Connection, token: str) -> tuple[Prepared, Handle, ExecutionStatus] | None:
        found = database.execute(
            "SELECT prepared, handle, status FROM executions WHERE token=? AND phase='running' AND handle IS NOT NULL",
            (token,),
        ).fetchone()
        if found is None:
            return None
        return decode(found[0], Prepared), decode(found[1], Handle), ExecutionStatus(found[2])

    def _tell(self, database: sqlite3.Connection, token: str, status: ExecutionStatus) -> None:
        changed = database.execute(
            "UPDATE executions SET status=? WHERE token=? AND status != ? RETURNING seq", (status, token, status)
        ).fetchone()
        if changed is not None:
            _announce(database, token, status, time.time_ns())

    def _put_handle(self, database: sqlite3.Connection, token: str, prepared: Prepared, handle: Handle) -> None:
        record = rebuild.HandleRecord(prepared=prepared, handle=handle)
        files.put(self._folder(token), files.HANDLE, encode(record), durable=self._durable)
        database.execute("UPDATE executions SET handle=? WHERE token=?", (encode(handle), token))

    def intend(self, database: sqlite3.Connection, token: str, intent: Intent) -> Intent | None:
        """Why it is stopped; the first stands."""
        found = database.execute(f"SELECT intent FROM executions WHERE token=? AND {OPEN}", (token,)).fetchone()
        if found is None:
            return None
        standing = _intent(found) or intent
        files.make_folder(self._folder(token))
        files.put(self._folder(token), files.INTENT, encode(standing), durable=self._durable)
        database.execute(
            "UPDATE executions SET intent=?, stopper=? WHERE token=?", (encode(standing), self._owner, token)
        )
        return standing

    def ended(self, database: sqlite3.Connection, token: str, end: Exit) -> Row | None:
        """running -> ended, for one process only."""
        changed = database.execute(
            f"UPDATE executions SET phase='ended', exit=?, owner=? WHERE token=? AND phase IN ('created', 'running')"
            f" RETURNING {', '.join(COLUMNS)}",
            (encode(end), self._owner, token),
        ).fetchone()
        return row_of(changed) if changed is not None else None

    def finished(self, database: sqlite3.Connection, token: str, decide: Decide) -> ExecutionResult | None:
        """any open phase -> finished; `decide` gives the result from the intent that stands."""
        found = database.execute(f"SELECT intent FROM executions WHERE token=? AND {OPEN}", (token,)).fetchone()
        if found is None:
            return None
        result = decide(_intent(found))
        record = encode(msgspec.structs.replace(result, stdout=b"", stderr=b""))
        files.make_folder(self._folder(token))  # its maker may have died right after the claim
        files.put(self._folder(token), files.RESULT, record, durable=self._durable)
        database.execute(
            "UPDATE executions SET phase='finished', status=?, reason=?, message=?, result=?, exit_code=?,"
            " started_at=coalesce(?, started_at), finished_at=?, owner=?, stopper=NULL WHERE token=?",
            (result.status, result.reason, result.error_msg, record, result.exit_code)
            + (nanoseconds(result.started_at), nanoseconds(result.finished_at), self._owner, token),
        )
        _announce(database, token, result.status, time.time_ns(), result.reason, result.error_msg)
        return result

    def removing(self, database: sqlite3.Connection, token: str, result: ExecutionResult | None) -> bool:
        """finished or done -> removing."""
        changed = database.execute(
            "UPDATE executions SET phase='removing', owner=? WHERE token=? AND phase IN ('finished', 'done')"
            " RETURNING id",
            (self._owner, token),
        ).fetchone()
        if changed is not None and result is not None:
            _keep_for_waiters(database, token, changed[0], result, time.time_ns())
        return changed is not None

    def delivered(self, database: sqlite3.Connection, token: str, result: ExecutionResult) -> bool:
        """The result was delivered, and with it its log is over; False where that was said before."""
        now = time.time_ns()
        self._note(token, files.MARKS, rebuild.MarksRecord(expired=True, delivered_at=now))
        changed = database.execute(
            "UPDATE executions SET delivered_at=?, expired=1 WHERE token=? AND delivered_at IS NULL RETURNING id",
            (now, token),
        ).fetchone()
        if changed is not None:
            _keep_for_waiters(database, token, changed[0], result, now)
        return changed is not None

    def expired(self, database: sqlite3.Connection, token: str) -> None:
        """Retention has taken the log."""
        self._note(token, files.MARKS, rebuild.MarksRecord(expired=True))
        database.execute("UPDATE executions SET expired=1 WHERE token=?", (token,))

    def _note(self, token: str, name: str, record: msgspec.Struct) -> None:
        """A record that only a rebuilt database needs; none where the folder is gone already."""
        folder = self._folder(token)
        if folder.exists():
            files.put(folder, name, encode(record), durable=self._durable)

    def take_over(self, database: sqlite3.Connection, token: str, former: str | None) -> bool:
        """This owner in the place of a dead one."""
        changed = database.execute(
            "UPDATE executions SET owner=? WHERE token=? AND owner IS ? AND phase != 'done' RETURNING seq",
            (self._owner, token, former),
        ).fetchone()
        return changed is not None

    def release(self, database: sqlite3.Connection, tokens: list[str]) -> None:
        """Nobody in the place of this owner."""
        database.executemany(
            "UPDATE executions SET owner=NULL WHERE token=? AND owner=?", [(token, self._owner) for token in tokens]
        )


def unclaim(database: sqlite3.Connection, token: str) -> None:
    """Takes a claim back that nothing followed."""
    database.execute("DELETE FROM executions WHERE token=?", (token,))
    database.execute("DELETE FROM events WHERE token=?", (token,))


def _public(request: ExecutionRequest) -> ExecutionRequest:
    """The request without what must not be stored, and without its input, which is a file of its own."""
    return msgspec.structs.replace(request, secret_environment={}, stdin=b"")


def _keep_for_waiters(
    database: sqlite3.Connection, token: str, execution_id: str, result: ExecutionResult, now: int
) -> None:
    database.execute("DELETE FROM removed WHERE time < ?", (now - _READ_WITHIN,))
    database.execute("INSERT OR REPLACE INTO removed VALUES (?, ?, ?, ?)", (token, execution_id, encode(result), now))


def _announce(
    database: sqlite3.Connection,
    token: str,
    status: ExecutionStatus,
    now: int,
    reason: str | None = None,
    message: str = "",
) -> None:
    database.execute(
        "INSERT INTO events (time, execution_id, token, job_id, status, reason, message)"
        " SELECT ?, id, token, job_id, ?, ?, ? FROM executions WHERE token=?",
        (now, status, reason, message, token),
    )


def _intent(found: tuple[Any, ...] | None) -> Intent | None:
    return decode(found[0], Intent) if found is not None and found[0] is not None else None


def _int(value: int | None) -> int | None:
    return None if value is None else int(value)


def _refuse(execution_id: str, status: str) -> None:
    if status in TERMINAL:
        raise ExecutionAlreadyFinished(
            f"execution {execution_id} has finished ({status})",
            status=status,
            mend="Use a new id, or remove it first",
            execution_id=execution_id,
        )
    raise ExecutionAlreadyStarted(
        f"execution {execution_id} is {status}", mend="Wait for it, or use another id", execution_id=execution_id
    )
