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
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from .. import faults
from ..engine import Execution, Exit, Handle, Prepared
from ..errors import (
    ExecutorClosed,
    ExecutorError,
)
from ..types import TERMINAL, Capacity, Event, ExecutionResult, ExecutionStatus, decode
from . import files
from .clock import instant, nanoseconds
from .folder import EXECUTIONS
from .row import COLUMNS, Intent, Row, row_of
from .schema import foreign
from .standing import Standing
from .steps import SAVED_AS, Decide, Steps, unclaim

__all__ = ["NOTIFY", "Journal"]

NOTIFY = "notify"
T = TypeVar("T")
# `+seq`: by the index of what is not done, in which history is not. Ordered by the bare column SQLite goes through all
# rows instead (https://sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_).
_OPEN = "WHERE phase != 'done' ORDER BY +seq"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM executions "


class Journal:
    """The journal of one state folder. `owner` is the uuid that this executor's claims carry."""

    def __init__(self, state_dir: Path, owner: str, *, durable: bool) -> None:
        self.state_dir = state_dir
        self._owner = owner
        self._durable = durable
        self._steps = Steps(owner, self.folder, durable=durable)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dms-journal")
        self._standing: Standing | None = None
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

    async def claim(self, x: Execution, engine: str, capacity: Capacity | None) -> Execution:
        """accepted: the row, then the folder with its first files; gives the execution with the GPUs that it gets.

        Raises `ExecutionAlreadyStarted`, `ExecutionAlreadyFinished`, `ResourcesUnavailable`, `StateUnwritable`.
        """
        claimed = await self._hop(self._accept, x, engine, capacity)
        self.committed(x.token, ExecutionStatus.PENDING)
        return claimed

    async def waiting(self, token: str, why: str) -> None:
        """An accepted one waits for something; announced where that is news."""
        if await self._change(self._steps.waiting, token, why):
            self.committed(token, ExecutionStatus.PENDING)

    async def created(self, token: str, prepared: Prepared, handle: Handle) -> Intent | None:
        """accepted -> created; gives the intent that somebody committed meanwhile."""
        return await self._change(self._steps.created, token, prepared, handle)

    async def running(self, token: str, started_at: datetime) -> Intent | None:
        """created -> running, announced; gives the intent that somebody committed meanwhile."""
        intent = await self._change(self._steps.running, token, nanoseconds(started_at))
        self.committed(token, ExecutionStatus.RUNNING)
        return intent

    async def paused(self, token: str, status: ExecutionStatus) -> bool:
        """running <-> paused; False where it is in neither."""
        changed = await self._change(self._steps.paused, token, status)
        self.committed(token, status)
        return changed

    async def saving(self, token: str, name: str) -> Handle | None:
        """It is to be saved to disk under a name; its handle with that, None where it does not run.

        Raises `InvalidRequest` where another one has the name, `ExecutionNotRunning` where this one has another.
        """
        return await self._change(self._steps.saving, token, name)

    async def saved(self, token: str, name: str) -> bool:
        """It is on the disk under that name: paused. False: another step has come between, and stands."""
        changed = await self._change(self._steps.saved, token, name)
        self.committed(token, ExecutionStatus.PAUSED)
        return changed

    async def unsaved(
        self, token: str, name: str | None, status: ExecutionStatus, handle: Handle | None = None
    ) -> None:
        """It is not, or no longer, on the disk under that name, and has that status. `handle`: what finds it now."""
        await self._change(self._steps.unsaved, token, name, status, handle)
        self.committed(token, status)

    async def intend(self, token: str, intent: Intent) -> Intent | None:
        """Commits why it is stopped; gives the intent that stands, None where it has ended or is gone."""
        return await self._change(self._steps.intend, token, intent)

    async def stop_in_hand(self, token: str, stopper: str | None = None) -> None:
        """A survivor carries the stop out: its stopper (None: this process) is no longer needed for it."""
        await self._change(
            _execute, "UPDATE executions SET stopper=NULL WHERE token=? AND stopper=?", token, stopper or self._owner
        )

    async def ended(self, token: str, end: Exit) -> Row | None:
        """running -> ended, by one process only: gives the row to that one, None to the others."""
        return await self._change(self._steps.ended, token, end)

    async def finished(self, token: str, decide: Decide) -> ExecutionResult | None:
        """any open phase -> finished, announced; None where somebody else was first.

        `decide` gives the result from the intent that stands; it is called in the transaction, on the journal's thread.
        """
        result = await self._change(self._steps.finished, token, decide)
        if result is not None:
            self.committed(token, result.status)
        return result

    async def done(self, token: str) -> None:
        """finished -> done: the engine has nothing of it any more."""
        await self._change(
            _execute, "UPDATE executions SET phase='done', owner=NULL WHERE token=? AND phase='finished'", token
        )

    async def delivered(self, token: str, result: ExecutionResult) -> bool:
        """A result was delivered to a caller, whose log goes with that; False where that was said before.

        `result` is kept for a minute for waiters of other processes.
        """
        return await self._change(self._steps.delivered, token, result)

    async def expired(self, token: str) -> None:
        """Retention has taken the log."""
        await self._change(self._steps.expired, token)

    async def removing(self, token: str, result: ExecutionResult | None) -> bool:
        """finished or done -> removing. `result` is kept for waiters elsewhere who have not read it yet."""
        return await self._change(self._steps.removing, token, result)

    async def removed(self, token: str) -> None:
        """Deletes the row: the id is free again."""
        await self._change(_execute, "DELETE FROM executions WHERE token=? AND phase='removing'", token)

    async def forget_events(self, age: float) -> None:
        """Drops events older than `age` seconds; the numbers of those that come are not used again."""
        await self._change(_execute, "DELETE FROM events WHERE time < ?", time.time_ns() - int(age * 1e9))

    # -- leases --------------------------------------------------------------------------------------------------

    async def take_over(self, token: str, former: str | None) -> bool:
        """Puts this owner in the place of a dead one (compare-and-set)."""
        return await self._change(self._steps.take_over, token, former)

    async def release(self, tokens: Iterable[str]) -> None:
        """Leaves running executions to whoever comes next."""
        left = list(tokens)
        if left:
            await self._change(self._steps.release, left)

    # -- reading -------------------------------------------------------------------------------------------------

    async def by_id(self, execution_id: str) -> Row | None:
        """The present incarnation of an id."""
        return await self._one("WHERE id=? AND phase != 'removing'", execution_id)

    async def by_token(self, token: str) -> Row | None:
        """One incarnation."""
        return await self._one("WHERE token=?", token)

    async def saved_as(self, name: str) -> Row | None:
        """What is saved to disk under a name, or is being brought there."""
        return await self._one(f"WHERE {SAVED_AS}", name)

    async def kept_result(self, token: str) -> ExecutionResult | None:
        """The result of one that was removed by force while somebody may have waited for it."""
        found = await self._hop(self._query, "SELECT result FROM removed WHERE token=?", token)
        return decode(found[0][0], ExecutionResult) if found else None

    async def open_rows(self) -> list[Row]:
        """All that is not done: what runs, what is not destroyed yet, and what is half removed."""
        return await self._hop(self._rows, _OPEN)

    async def intents(self) -> dict[str, Intent]:
        """Why executions whose jobs do not run yet are to be stopped, by token."""
        text = "SELECT token, intent FROM executions WHERE phase != 'done' AND status='pending' AND intent IS NOT NULL"
        return {token: decode(intent, Intent) for token, intent in await self._hop(self._query, text)}

    async def open_owners(self) -> set[str | None]:
        """The owners and stoppers that rows which are not done name."""
        found = await self._hop(
            self._query,
            "SELECT owner FROM executions WHERE phase != 'done'"
            " UNION SELECT stopper FROM executions WHERE phase != 'done' AND stopper IS NOT NULL",
        )
        return {name for (name,) in found}

    async def engines(self) -> set[str]:
        """The engines of all rows."""
        return {name for (name,) in await self._hop(self._query, "SELECT DISTINCT engine FROM executions")}

    async def rows(
        self,
        *,
        statuses: Iterable[str] | None = None,
        job_id: str | None = None,
        after: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Row]:
        """Rows in order of creation or against it, past the one whose `seq` is `after`."""
        clauses, values, alive = ["phase != 'removing'"], list[Any](), False
        if after is not None:
            clauses.append(f"seq {'<' if newest_first else '>'} ?")
            values.append(after)
        if statuses is not None:
            chosen = list(statuses)
            alive = TERMINAL.isdisjoint(chosen)
            if alive:
                clauses.append("phase != 'done'")
            clauses.append(f"status IN ({', '.join('?' * len(chosen))})")
            values += chosen
        if job_id is not None:
            clauses.append("job_id=?")
            values.append(job_id)
        order = f"{'+' if alive else ''}seq{' DESC' if newest_first else ''}"
        text = f"WHERE {' AND '.join(clauses)} ORDER BY {order}"
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
        self._standing = Standing(self.state_dir, durable=self._durable)
        return self._rows(_OPEN)

    def _close(self) -> None:
        if self._standing is not None:
            self._standing.close()
            self._standing = None
        if self._notify >= 0:
            os.close(self._notify)
            self._notify = -1

    def _connected(self) -> AbstractContextManager[sqlite3.Connection]:
        if self._standing is None:
            raise ExecutorClosed("the executor is closed", mend="Open it again; running jobs go on")
        return self._standing.connected()

    def _transact(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            with self._connected() as database:
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
            with self._connected() as database:
                return database.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise foreign(error, self.state_dir) from error

    def _rows(self, where: str, *values: Any) -> list[Row]:
        return [row_of(found) for found in self._query(_SELECT + where, *values)]

    async def _one(self, where: str, *values: Any) -> Row | None:
        rows = await self._hop(self._rows, where, *values)
        return rows[0] if rows else None

    def _accept(self, x: Execution, engine: str, capacity: Capacity | None) -> Execution:
        x = self._transact(self._steps.claim, x, engine, capacity)
        faults.point("claimed")
        try:
            self._steps.write_request(x, engine)
        except ExecutorError:
            # A state folder that cannot be written leaves no record, and the id free.
            shutil.rmtree(x.folder, ignore_errors=True)
            self._transact(unclaim, x.token)
            raise
        return x


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


def _execute(database: sqlite3.Connection, text: str, *values: Any) -> None:
    database.execute(text, values)
