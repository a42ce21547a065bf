"""A damaged database, set aside and built anew from the execution folders: they hold all that the rows held."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
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

__all__ = ["HandleRecord", "RequestRecord", "open_database"]

S = TypeVar("S")
_log = logging.getLogger(__name__)


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file request.json: what the row said at the claim."""

    id: str
    token: str
    engine: str
    created_at: int
    request: ExecutionRequest


class HandleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file handle.json."""

    prepared: Prepared
    handle: Handle


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
    lock = os.open(state_dir / "rebuild.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
            database.execute("COMMIT")
        return database
    finally:
        os.close(lock)


def _by_age(executions: Path) -> list[tuple[RequestRecord, Path]]:
    found = []
    for name in os.listdir(executions):
        raw = files.read(executions / name, files.REQUEST)
        try:
            found.append((decode(raw or b"", RequestRecord), executions / name))
        except msgspec.DecodeError as error:
            _log.warning("folder %s has no readable request (%s): it is a leftover", name, error)
    return sorted(found, key=lambda pair: pair[0].created_at)


def _adopt(database: sqlite3.Connection, record: RequestRecord, folder: Path) -> None:
    handle = _optional(folder, files.HANDLE, HandleRecord)
    result = _optional(folder, files.RESULT, ExecutionResult)
    database.execute(
        "INSERT OR IGNORE INTO executions (id, token, job_id, engine, phase, status, request, prepared, handle, intent,"
        " created_at, cpu, memory, disk, pids) VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (record.id, record.token, record.request.job_id, record.engine)
        + ("accepted" if handle is None else "created", encode(record.request))
        + (None if handle is None else encode(handle.prepared), None if handle is None else encode(handle.handle))
        + (files.read(folder, files.INTENT), record.created_at)
        + _resources(record.request),
    )
    if result is not None:
        database.execute(
            "UPDATE executions SET phase='finished', status=?, reason=?, message=?, result=?, exit_code=?,"
            " started_at=?, finished_at=? WHERE token=?",
            (result.status, result.reason, result.error_msg, encode(result), result.exit_code)
            + (nanoseconds(result.started_at), nanoseconds(result.finished_at), record.token),
        )


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
