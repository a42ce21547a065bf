"""The database file: its tables, its version, and what happens to one that is damaged."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from ..errors import StateDamaged, StateError, StateTooNew, StateUnwritable
from .files import os_error

__all__ = ["DATABASE", "VERSION", "connect", "foreign", "set_aside"]

DATABASE = "journal.db"
VERSION = 1

# One script per version; each is applied once, in one transaction with its PRAGMA user_version.
_MIGRATIONS = {
    1: """
    CREATE TABLE executions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE, token TEXT NOT NULL UNIQUE, job_id TEXT NOT NULL, engine TEXT NOT NULL,
        phase TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, message TEXT NOT NULL DEFAULT '',
        owner TEXT, stopper TEXT,
        request BLOB NOT NULL, prepared BLOB, handle BLOB, intent BLOB, exit BLOB, result BLOB,
        exit_code INTEGER, created_at INTEGER NOT NULL, started_at INTEGER, finished_at INTEGER,
        delivered_at INTEGER, expired INTEGER NOT NULL DEFAULT 0,
        cpu REAL, memory INTEGER, disk INTEGER, pids INTEGER
    ) STRICT;
    CREATE INDEX unfinished ON executions(phase) WHERE phase != 'done';
    CREATE INDEX by_job ON executions(job_id);
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL, execution_id TEXT NOT NULL, token TEXT NOT NULL, job_id TEXT NOT NULL,
        status TEXT NOT NULL, reason TEXT, message TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE removed (
        token TEXT PRIMARY KEY, execution_id TEXT NOT NULL, result BLOB NOT NULL, time INTEGER NOT NULL
    ) STRICT;
    """,
}

_UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def connect(folder: Path, *, durable: bool) -> sqlite3.Connection:
    """Opens or makes the database and brings it to `VERSION`. Raises `StateError` and its kinds.

    `durable`: a commit reaches the disk before it returns (`PRAGMA synchronous=FULL`, https://sqlite.org/pragma.html).
    """
    path = folder / DATABASE
    try:
        # SQLite would make it by the umask; the files beside it take its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise os_error(error, path) from error
    try:
        connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, durable)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise foreign(error, folder) from error
    return connection


def _prepare(connection: sqlite3.Connection, durable: bool) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StateTooNew(
            f"the state folder has version {version}, this release knows up to {VERSION}",
            mend="Use the newer release that wrote it, or another state folder",
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    if version < VERSION:
        _migrate(connection)
    connection.execute("SELECT count(*) FROM executions WHERE phase != 'done'").fetchone()
    connection.execute("SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1").fetchone()


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may have migrated meanwhile.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for number in range(version + 1, VERSION + 1):
            for statement in _MIGRATIONS[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def foreign(error: sqlite3.Error, folder: Path) -> StateError:
    """SQLite's error as ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return StateDamaged(f"{folder / DATABASE} is damaged: {error}", mend="Open the folder anew: it is rebuilt then")
    if code in _UNWRITABLE:
        return StateUnwritable(
            f"{folder} cannot be written: {error}", mend="Free some space, or make it writable, or use another folder"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StateUnwritable(f"{folder} is locked by another process: {error}", mend="End what holds it")
    return StateError(f"{folder / DATABASE}: {error}")


def set_aside(folder: Path) -> Path:
    """Renames a damaged database, with its write-ahead log, to `journal.db.damaged-<time>`."""
    target = folder / f"{DATABASE}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 10**9:09d}"
    for suffix in ("-wal", "-shm", ""):
        source = folder / f"{DATABASE}{suffix}"
        if source.exists():
            source.rename(f"{target}{suffix}")
    return target
