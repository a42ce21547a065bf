"""The connection to the database that stands: one that another process set aside and rebuilt is left for its successor.

Who uses the database holds `rebuild.lock` shared, who rebuilds it holds it alone: so nothing is ever committed to a
database that was set aside.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .rebuild import LOCK, open_database
from .schema import DATABASE

__all__ = ["Standing"]


class Standing:
    """Belongs to the journal's thread. Raises what opening a database raises."""

    def __init__(self, state_dir: Path, *, durable: bool) -> None:
        self._state_dir = state_dir
        self._durable = durable
        self._gate = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        try:
            with self.connected():
                pass
        except BaseException:
            self.close()
            raise

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Nobody sets it aside meanwhile."""
        database = self._entered()
        try:
            yield database
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def _entered(self) -> sqlite3.Connection:
        while True:
            fcntl.flock(self._gate, fcntl.LOCK_SH)
            if self._database is not None and _inode(self._state_dir / DATABASE) == self._inode:
                return self._database
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            if self._database is not None:
                self._database.close()
                self._database = None
            self._database = open_database(self._state_dir, durable=self._durable)
            self._inode = _inode(self._state_dir / DATABASE)


def _inode(path: Path) -> int:
    """0 where it is not there: just being rebuilt, or taken away."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
