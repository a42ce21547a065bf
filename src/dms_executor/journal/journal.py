"""`Journal`: every durable step of an execution, each one commit, each on the journal's own thread.

All transitions are compare-and-set in one immediate transaction. After a commit the writer bumps the file `notify`,
which every other process that waits has an inotify watch on. A file of the execution's folder is renamed into place in
the same hop, before its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .. import faults
from ..engine import Execution, Exit, Handle, Prepared
from ..errors import (
    ExecutionAlreadyFinished,
    ExecutionAlreadyStarted,
    ExecutorClosed,
    ExecutorError,
    ResourcesUnavailable,
)
from ..types import TERMINAL, Capacity, Event, ExecutionRequest, ExecutionResult, ExecutionStatus, decode, encode
from . import files, rebuild
from .clock import instant, nanoseconds
from .folder import EXECUTIONS
from .row import COLUMNS, STRUCTS, Intent, Row
from .schema import foreign

__all__ = ["NOTIFY", "Journal"]

NOTIFY = "notify"
T = TypeVar("T")
Decide = Callable[[Intent | None], ExecutionResult]
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM executions "
_OPEN = "phase NOT IN ('finished', 'done', 'removing')"


class Journal:
    """The journal of one state folder. `owner` is the uuid that this executor's claims carry."""

    def __init__(self, state_dir: Path, owner: str, *, durable: bool) -> None:
        self.state_dir = state_dir
        self._owner = owner
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dms-journal")
        self._database: sqlite3.Connection | None = None
        self._notify = -1
        self.committed: Callable[[str, ExecutionStatus], None] = lambda _token, _status: None
        """Called in the event loop after this process committed a change of an execution."""

    async def open(self) -> list[Row]:
        """Connects, rebuilding a damaged database from the folders; gives the rows that are not done."""
        return await self._hop(self._open)

    async def close(self) -> None:
        """Waits for what is under way, then closes, also what a failed `open` left. Idempotent."""
        with contextlib.suppress(ExecutorClosed):
            await self._hop(self._close)
        self._thread.shutdown(wait=False)

    def folder(self, token: str) -> Path:
        """The folder of the execution that bears `token`."""
        return self.state_dir / EXECUTIONS / token

    # -- steps of one execution, in their order ------------------------------------------------------------------

    async def claim(self, x: Execution, engine: str, capacity: Capacity | None) -> None:
        """accepted: the row, then the folder with its first files.

        Raises `ExecutionAlreadyStarted`, `ExecutionAlreadyFinished`, `ResourcesUnavailable`, `StateUnwritable`.
        """
        await self._hop(self._accept, x, engine, capacity)
        self.committed(x.token, ExecutionStatus.PENDING)

    async def created(self, token: str, prepared: Prepared, handle: Handle) -> Intent | None:
        """accepted -> created; gives the intent that somebody committed meanwhile."""
        return await self._change(self._created, token, prepared, handle)

    async def running(self, token: str, started_at: datetime) -> Intent | None:
        """created -> running, announced; gives the intent that somebody committed meanwhile."""
        intent = await self._change(self._running, token, nanoseconds(started_at))
        self.committed(token, ExecutionStatus.RUNNING)
        return intent

    async def paused(self, token: str, status: ExecutionStatus) -> bool:
        """running <-> paused; False where it is in neither."""
        changed = await self._change(self._paused, token, status)
        self.committed(token, status)
        return changed

    async def intend(self, token: str, intent: Intent) -> Intent | None:
        """Commits why it is stopped; gives the intent that stands, None where it has ended or is gone."""
        return await self._change(self._intend, token, intent)

    async def stop_in_hand(self, token: str, stopper: str | None = None) -> None:
        """A survivor carries the stop out: its stopper (None: this process) is no longer needed for it."""
        await self._change(
            _execute, "UPDATE executions SET stopper=NULL WHERE token=? AND stopper=?", token, stopper or self._owner
        )

    async def ended(self, token: str, end: Exit) -> Row | None:
        """running -> ended, by one process only: gives the row to that one, None to the others."""
        return await self._change(self._ended, token, end)

    async def finished(self, token: str, decide: Decide) -> ExecutionResult | None:
        """any open phase -> finished, announced; None where somebody else was first.

        `decide` gives the result from the intent that stands; it is called in the transaction, on the journal's thread.
        """
        result = await self._change(self._finished, token, decide)
        if result is not None:
            self.committed(token, result.status)
        return result

    async def done(self, token: str) -> None:
        """finished -> done: the engine has nothing of it any more."""
        await self._change(
            _execute, "UPDATE executions SET phase='done', owner=NULL WHERE token=? AND phase='finished'", token
        )

    async def delivered(self, token: str) -> None:
        """A result was delivered to a caller."""
        await self._change(
            _execute,
            "UPDATE executions SET delivered_at=? WHERE token=? AND delivered_at IS NULL",
            time.time_ns(),
            token,
        )

    async def expired(self, token: str) -> None:
        """Retention has taken the log."""
        await self._change(_execute, "UPDATE executions SET expired=1 WHERE token=?", token)

    async def removing(self, token: str, result: ExecutionResult | None) -> bool:
        """finished or done -> removing. `result` is kept for waiters elsewhere who have not read it yet."""
        return await self._change(self._removing, token, result)

    async def removed(self, token: str) -> None:
        """Deletes the row: the id is free again."""
        await self._change(_execute, "DELETE FROM executions WHERE token=? AND phase='removing'", token)

    async def forget_events(self, age: float) -> None:
        """Drops events older than `age` seconds; the numbers of those that come are not used again."""
        await self._change(_execute, "DELETE FROM events WHERE time < ?", time.time_ns() - int(age * 1e9))

    # -- leases --------------------------------------------------------------------------------------------------

    async def take_over(self, token: str, former: str | None) -> bool:
        """Puts this owner in the place of a dead one (compare-and-set)."""
        return await self._change(self._take_over, token, former)

    async def release(self, tokens: Iterable[str]) -> None:
        """Leaves running executions to whoever comes next."""
        left = list(tokens)
        if left:
            await self._change(self._release, left)

    # -- reading -------------------------------------------------------------------------------------------------

    async def by_id(self, execution_id: str) -> Row | None:
        """The present incarnation of an id."""
        return await self._one("WHERE id=? AND phase != 'removing'", execution_id)

    async def by_token(self, token: str) -> Row | None:
        """One incarnation."""
        return await self._one("WHERE token=?", token)

    async def kept_result(self, token: str) -> ExecutionResult | None:
        """The result of one that was removed by force while somebody may have waited for it."""
        found = await self._hop(self._query, "SELECT result FROM removed WHERE token=?", token)
        return decode(found[0][0], ExecutionResult) if found else None

    async def open_rows(self) -> list[Row]:
        """All that is not done: what runs, what is not destroyed yet, and what is half removed."""
        return await self._hop(self._rows, "WHERE phase != 'done' ORDER BY seq")

    async def open_owners(self) -> set[str | None]:
        """The owners and stoppers that rows which are not done name."""
        found = await self._hop(
            self._query,
            "SELECT owner FROM executions WHERE phase != 'done'"
            " UNION SELECT stopper FROM executions WHERE phase != 'done' AND stopper IS NOT NULL",
        )
        return {name for (name,) in found}

    async def rows(
        self, *, statuses: Iterable[str] | None, job_id: str | None, after: int, limit: int | None
    ) -> list[Row]:
        """Rows in order of creation, past the one whose `seq` is `after`."""
        clauses, values = ["phase != 'removing'", "seq > ?"], list[Any]([after])
        if statuses is not None:
            chosen = list(statuses)
            clauses.append(f"status IN ({', '.join('?' * len(chosen))})")
            values += chosen
        if job_id is not None:
            clauses.append("job_id=?")
            values.append(job_id)
        text = f"WHERE {' AND '.join(clauses)} ORDER BY seq"
        return await self._hop(self._rows, text if limit is None else f"{text} LIMIT {int(limit)}", *values)

    async def events(self, after: int, limit: int = 1000) -> list[tuple[Event, str]]:
        """Events past a number, in order, each with its execution's token."""
        found = await self._hop(
            self._query,
            "SELECT sequence, time, execution_id, job_id, status, reason, message, token FROM events"
            " WHERE sequence > ? ORDER BY sequence LIMIT ?",
            after,
            limit,
        )
        return [(_event(values), values[7]) for values in found]

    async def statuses(self, token: str, after: int) -> list[ExecutionStatus]:
        """The statuses that one execution has reached past an event's number, in order; also once it is removed."""
        text = "SELECT status FROM events WHERE sequence > ? AND token=? ORDER BY sequence"
        return [ExecutionStatus(status) for (status,) in await self._hop(self._query, text, after, token)]

    async def last_event(self) -> int:
        """The number of the newest event, 0 where there is none."""
        return int((await self._hop(self._query, "SELECT coalesce(max(sequence), 0) FROM events"))[0][0])

    # -- on the thread -------------------------------------------------------------------------------------------

    async def _hop(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except RuntimeError as error:
            raise ExecutorClosed("the executor is closed", mend="Open it again; running jobs go on") from error
        return await future

    async def _change(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._hop(self._transact, work, *arguments)

    def _open(self) -> list[Row]:
        try:
            self._notify = os.open(self.state_dir / NOTIFY, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._notify).st_size == 0:
                os.pwrite(self._notify, b"\n", 0)  # its room is taken now: a bump after a commit must not fail
        except OSError as error:
            raise files.os_error(error, self.state_dir / NOTIFY) from error
        self._database = rebuild.open_database(self.state_dir, durable=self._durable)
        return self._rows("WHERE phase != 'done' ORDER BY seq")

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._notify >= 0:
            os.close(self._notify)
            self._notify = -1

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise ExecutorClosed("the executor is closed", mend="Open it again; running jobs go on")
        return self._database

    def _transact(self, work: Callable[..., T], *arguments: Any) -> T:
        database = self._connection()
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                answer = work(database, *arguments)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            os.pwrite(self._notify, b"\n", 0)
        except sqlite3.Error as error:
            raise foreign(error, self.state_dir) from error
        except OSError as error:
            raise files.os_error(error, self.state_dir / NOTIFY) from error
        return answer

    def _query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection().execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise foreign(error, self.state_dir) from error

    def _rows(self, where: str, *values: Any) -> list[Row]:
        return [_row(found) for found in self._query(_SELECT + where, *values)]

    async def _one(self, where: str, *values: Any) -> Row | None:
        rows = await self._hop(self._rows, where, *values)
        return rows[0] if rows else None

    def _accept(self, x: Execution, engine: str, capacity: Capacity | None) -> None:
        self._transact(self._claim, x, engine, capacity)
        faults.point("claimed")
        try:
            self._write_request(x, engine)
        except ExecutorError:
            # A state folder that cannot be written leaves no record, and the id free.
            shutil.rmtree(x.folder, ignore_errors=True)
            self._transact(_unclaim, x.token)
            raise

    def _write_request(self, x: Execution, engine: str) -> None:
        files.make_folder(x.folder)
        request = x.request
        record = rebuild.RequestRecord(
            id=x.id, token=x.token, engine=engine, created_at=time.time_ns(), request=_public(request)
        )
        files.put(x.folder, files.REQUEST, encode(record), durable=self._durable)
        if request.stdin:
            files.put(x.folder, files.STDIN, request.stdin, durable=self._durable)
        if request.secret_environment:
            files.put(x.folder, files.SECRETS, encode(request.secret_environment), durable=False)

    def _claim(self, database: sqlite3.Connection, x: Execution, engine: str, capacity: Capacity | None) -> None:
        taken = database.execute("SELECT status FROM executions WHERE id=?", (x.id,)).fetchone()
        if taken is not None:
            _refuse(x.id, taken[0])
        if capacity is not None:
            _check_capacity(database, x, engine, capacity)
        now = time.time_ns()
        named = x.request.resources
        database.execute(
            "INSERT INTO executions (id, token, job_id, engine, phase, status, owner, request, created_at,"
            " cpu, memory, disk, pids) VALUES (?, ?, ?, ?, 'accepted', 'pending', ?, ?, ?, ?, ?, ?, ?)",
            (x.id, x.token, x.request.job_id, engine, self._owner, encode(_public(x.request)), now)
            + (named.cpu, _int(named.memory), _int(named.disk), named.pids),
        )
        _announce(database, x.token, ExecutionStatus.PENDING, now)

    def _created(self, database: sqlite3.Connection, token: str, prepared: Prepared, handle: Handle) -> Intent | None:
        record = rebuild.HandleRecord(prepared=prepared, handle=handle)
        files.put(self.folder(token), files.HANDLE, encode(record), durable=self._durable)
        changed = database.execute(
            "UPDATE executions SET phase='created', prepared=?, handle=? WHERE token=? AND phase='accepted'"
            " RETURNING intent",
            (encode(prepared), encode(handle), token),
        ).fetchone()
        return _intent(changed)

    def _running(self, database: sqlite3.Connection, token: str, started_at: int) -> Intent | None:
        changed = database.execute(
            "UPDATE executions SET phase='running', status='running', started_at=? WHERE token=? AND phase='created'"
            " RETURNING intent",
            (started_at, token),
        ).fetchone()
        if changed is not None:
            _announce(database, token, ExecutionStatus.RUNNING, time.time_ns())
        return _intent(changed)

    def _paused(self, database: sqlite3.Connection, token: str, status: ExecutionStatus) -> bool:
        changed = database.execute(
            "UPDATE executions SET status=? WHERE token=? AND phase='running' AND status != ? RETURNING seq",
            (status, token, status),
        ).fetchone()
        if changed is not None:
            _announce(database, token, status, time.time_ns())
        return changed is not None

    def _intend(self, database: sqlite3.Connection, token: str, intent: Intent) -> Intent | None:
        found = database.execute(f"SELECT intent FROM executions WHERE token=? AND {_OPEN}", (token,)).fetchone()
        if found is None:
            return None
        standing = _intent(found) or intent
        files.make_folder(self.folder(token))
        files.put(self.folder(token), files.INTENT, encode(standing), durable=self._durable)
        database.execute(
            "UPDATE executions SET intent=?, stopper=? WHERE token=?", (encode(standing), self._owner, token)
        )
        return standing

    def _ended(self, database: sqlite3.Connection, token: str, end: Exit) -> Row | None:
        changed = database.execute(
            f"UPDATE executions SET phase='ended', exit=?, owner=? WHERE token=? AND phase IN ('created', 'running')"
            f" RETURNING {', '.join(COLUMNS)}",
            (encode(end), self._owner, token),
        ).fetchone()
        return _row(changed) if changed is not None else None

    def _finished(self, database: sqlite3.Connection, token: str, decide: Decide) -> ExecutionResult | None:
        found = database.execute(f"SELECT intent FROM executions WHERE token=? AND {_OPEN}", (token,)).fetchone()
        if found is None:
            return None
        result = decide(_intent(found))
        record = encode(msgspec.structs.replace(result, stdout=b"", stderr=b""))
        files.make_folder(self.folder(token))  # its maker may have died right after the claim
        files.put(self.folder(token), files.RESULT, record, durable=self._durable)
        database.execute(
            "UPDATE executions SET phase='finished', status=?, reason=?, message=?, result=?, exit_code=?,"
            " started_at=coalesce(?, started_at), finished_at=?, owner=?, stopper=NULL WHERE token=?",
            (result.status, result.reason, result.error_msg, record, result.exit_code)
            + (nanoseconds(result.started_at), nanoseconds(result.finished_at), self._owner, token),
        )
        _announce(database, token, result.status, time.time_ns(), result.reason, result.error_msg)
        return result

    def _removing(self, database: sqlite3.Connection, token: str, result: ExecutionResult | None) -> bool:
        changed = database.execute(
            "UPDATE executions SET phase='removing', owner=? WHERE token=? AND phase IN ('finished', 'done')"
            " RETURNING id",
            (self._owner, token),
        ).fetchone()
        if changed is not None and result is not None:
            database.execute("DELETE FROM removed WHERE time < ?", (time.time_ns() - 3600 * 10**9,))
            database.execute(
                "INSERT OR REPLACE INTO removed VALUES (?, ?, ?, ?)",
                (token, changed[0], encode(result), time.time_ns()),
            )
        return changed is not None

    def _take_over(self, database: sqlite3.Connection, token: str, former: str | None) -> bool:
        changed = database.execute(
            "UPDATE executions SET owner=? WHERE token=? AND owner IS ? AND phase != 'done' RETURNING seq",
            (self._owner, token, former),
        ).fetchone()
        return changed is not None

    def _release(self, database: sqlite3.Connection, tokens: list[str]) -> None:
        database.executemany(
            "UPDATE executions SET owner=NULL WHERE token=? AND owner=?", [(token, self._owner) for token in tokens]
        )


def _public(request: ExecutionRequest) -> ExecutionRequest:
    """The request without what must not be stored, and without its input, which is a file of its own."""
    return msgspec.structs.replace(request, secret_environment={}, stdin=b"")


def _row(values: tuple[Any, ...]) -> Row:
    named = dict(zip(COLUMNS, values, strict=True))
    for name, kind in STRUCTS.items():
        if named[name] is not None:
            named[name] = decode(named[name], kind)
    named["status"] = ExecutionStatus(named["status"])
    named["expired"] = bool(named["expired"])
    return Row(**named)


def _event(values: tuple[Any, ...]) -> Event:
    sequence, stamp, execution_id, job_id, status, reason, message = values[:7]
    return Event(
        sequence=sequence,
        time=instant(stamp),
        execution_id=execution_id,
        job_id=job_id,
        status=ExecutionStatus(status),
        reason=reason,
        message=message,
    )


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


def _execute(database: sqlite3.Connection, text: str, *values: Any) -> None:
    database.execute(text, values)


def _intent(found: tuple[Any, ...] | None) -> Intent | None:
    return decode(found[0], Intent) if found is not None and found[0] is not None else None


def _unclaim(database: sqlite3.Connection, token: str) -> None:
    database.execute("DELETE FROM executions WHERE token=?", (token,))
    database.execute("DELETE FROM events WHERE token=?", (token,))


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


def _check_capacity(database: sqlite3.Connection, x: Execution, engine: str, capacity: Capacity) -> None:
    for name in ("cpu", "memory", "disk", "pids"):
        wanted, limit = getattr(x.request.resources, name), getattr(capacity, name)
        if wanted is None or limit is None:
            continue
        (used,) = database.execute(
            f"SELECT coalesce(sum({name}), 0) FROM executions WHERE engine=? AND {_OPEN}", (engine,)
        ).fetchone()
        if used + wanted > limit:
            raise ResourcesUnavailable(
                f"{name}: {wanted} asked for, {max(0, limit - used)} of {limit} free on engine {engine}",
                mend="Ask for less, or wait until another execution has ended",
                execution_id=x.id,
            )
