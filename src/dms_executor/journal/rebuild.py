"""A damaged database, set aside and built anew from the execution folders: they hold all that the rows held."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from ..engine import Handle, Prepared
from ..errors import StateDamaged
from ..types import ExecutionRequest, ExecutionResult, decode, encode
from . import files
from .clock import nanoseconds
from .folder import EXECUTIONS
from .schema import connect, set_aside

__all__ = ["LOCK", "HandleRecord", "MarksRecord", "RequestRecord", "StartedRecord", "open_database"]

LOCK = "rebuild.lock"

S = TypeVar("S")
_log = logging.getLogger(__name__)


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file request.json: what the row said at the claim."""

    id: str
    token: str
    engine: str
    created_at: int
    owner: str | None = None
    request: ExecutionRequest


class HandleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file handle.json."""

    prepared: Prepared
    handle: Handle


class StartedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file started.json."""

    started_at: int


class MarksRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file marks.json: what became of the result after the end."""

    expired: bool = False
    delivered_at: int | None = None


def open_database(state_dir: Path, *, durable: bool) -> sqlite3.Connection:
    """The folder's database; one that is damaged, or missing where executions are, is built anew from their folders."""
    try:
        database = connect(state_dir, durable=durable)
    except StateDamaged as error:
        _log.warning("%s", error.message)
    else:
        if not _lacks_rows(database, state_dir):
            return database
        database.close()
    return _rebuild(state_dir, durable=durable)


def _lacks_rows(database: sqlite3.Connection, state_dir: Path) -> bool:
    """Whether executions have folders, and no row was ever written: a claim's row comes before its folder."""
    ever = database.execute("SELECT 1 FROM sqlite_sequence WHERE name='executions'").fetchone()
    return ever is None and any(os.scandir(state_dir / EXECUTIONS))


def _rebuild(state_dir: Path, *, durable: bool) -> sqlite3.Connection:
    """Sets a damaged database aside and gives a connection to its successor; one process does it, others wait."""
    lock = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            database = connect(state_dir, durable=durable)
        except StateDamaged:
            _log.warning("the damaged database is kept as %s", set_aside(state_dir).name)
            database = connect(state_dir, durable=durable)
        if _lacks_rows(database, state_dir):  # else another process was first
            database.execute("BEGIN IMMEDIATE")
            for record, folder in _by_age(state_dir / EXECUTIONS):
                _adopt(database, record, folder)
            _announce_all(database)
            database.execute("COMMIT")
        return database
    finally:
        os.close(lock)


def _by_age(executions: Path) -> list[tuple[RequestRecord, Path]]:
    """One folder of each id: the newest. An older one is what a removal could not take away."""
    found: dict[str, tuple[RequestRecord, Path]] = {}
    for name in os.listdir(executions):
        raw = files.read(executions / name, files.REQUEST)
        try:
            record = decode(raw or b"", RequestRecord)
        except msgspec.DecodeError as error:
            _log.warning("folder %s has no readable request (%s): it is a leftover", name, error)
            continue
        other = found.get(record.id)
        if other is not None:
            older = name if other[0].created_at > record.created_at else other[1].name
            _log.warning("folder %s is an earlier one of %s: it is a leftover", older, record.id)
        if other is None or other[0].created_at <= record.created_at:
            found[record.id] = record, executions / name
    return sorted(found.values(), key=lambda pair: pair[0].created_at)


def _adopt(database: sqlite3.Connection, record: RequestRecord, folder: Path) -> None:
    handle = _optional(folder, files.HANDLE, HandleRecord)
    started = _optional(folder, files.STARTED, StartedRecord)
    result = _optional(folder, files.RESULT, ExecutionResult)
    running = handle is not None and started is not None
    database.execute(
        "INSERT INTO executions (id, token, job_id, engine, phase, status, owner, request, prepared, handle, intent,"
        " created_at, started_at, cpu, memory, disk, pids) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (record.id, record.token, record.request.job_id, record.engine)
        + ("accepted" if handle is None else "running" if running else "created", "running" if running else "pending")
        + (record.owner, encode(record.request))
        + (None if handle is None else encode(handle.prepared), None if handle is None else encode(handle.handle))
        + (files.read(folder, files.INTENT), record.created_at, started.started_at if started and running else None)
        + _resources(record.request),
    )
    if result is None:
        return
    marks = _optional(folder, files.MARKS, MarksRecord) or MarksRecord()
    database.execute(
        "UPDATE executions SET phase='finished', status=?, reason=?, message=?, result=?, exit_code=?,"
        " started_at=?, finished_at=?, expired=?, delivered_at=? WHERE token=?",
        (result.status, result.reason, result.error_msg, encode(result), result.exit_code)
        + (nanoseconds(result.started_at), nanoseconds(result.finished_at))
        + (marks.expired, marks.delivered_at, record.token),
    )


_HISTORY = """
INSERT INTO events (time, execution_id, token, job_id, status, reason, message)
SELECT time, id, token, job_id, status, reason, message FROM (
    SELECT created_at AS time, id, token, job_id, 'pending' AS status, NULL AS reason, '' AS message FROM executions
    UNION ALL
    SELECT started_at, id, token, job_id, 'running', NULL, '' FROM executions WHERE started_at IS NOT NULL
    UNION ALL
    SELECT finished_at, id, token, job_id, status, reason, message FROM executions WHERE finished_at IS NOT NULL
) ORDER BY time
"""


def _announce_all(database: sqlite3.Connection) -> None:
    """What is known of the past, under numbers that nobody has seen: who follows goes on, and may hear a thing twice.

    Numbers are counted one by one from 1, so the milliseconds since 1970 are beyond all that were.
    """
    database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (time.time_ns() // 10**6,))
    database.execute(_HISTORY)


def _resources(request: ExecutionRequest) -> tuple[float | None, ...]:
    named = request.resources
    return (named.cpu, *(None if n is None else int(n) for n in (named.memory, named.disk)), named.pids)


def _optional(folder: Path, name: str, kind: type[S]) -> S | None:
    raw = files.read(folder, name)
    try:
        return None if raw is None else decode(raw, kind)
    except msgspec.DecodeError as error:
        _log.warning("%s of folder %s is unreadable: %s", name, folder.name, error)
        return None
