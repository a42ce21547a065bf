"""Which of the daemon's images this state folder answers for: those that it had the daemon pull.

    images/<hex>            JSON: what meant it; its mtime: when it was used last
    pins/<hex>/<token>      an execution that uses it
    lock                    shared while an image is looked up and pinned, alone while one is taken away

What somebody else loaded or pulled has no entry, and is neither listed nor taken away. All of it blocks.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..errors import ImageNotFound
from ..typed import known

__all__ = ["Entry", "Kept"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _Names(msgspec.Struct, frozen=True):
    references: list[str] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One image. `references` are whole names, as they were asked for."""

    digest: str
    references: list[str]
    last_used_at: datetime
    pinned: bool


class Kept:
    """`folder`: this engine's own in the state folder. An execution is alive while its own folder is there."""

    def __init__(self, folder: Path, executions: Path) -> None:
        self._folder = folder
        self._executions = executions

    def lock(self, *, alone: bool) -> int:
        """A descriptor that holds the lock until it is closed. Waits for its turn."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def note(self, digest: str, reference: str) -> None:
        """It was pulled by that name, which from now on means no other. Raises OSError."""
        for entry in self.entries():
            if reference in entry.references and entry.digest != digest:
                self._write(entry.digest, [name for name in entry.references if name != reference])
        self._write(digest, sorted({*self.references(digest), reference}))

    def pin(self, digest: str, token: str) -> None:
        """It is used now, and stays as long as the execution; nothing for an image that has no entry."""
        try:
            os.utime(self._path(digest))
        except FileNotFoundError:
            return
        pins = self._pins(digest)
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        (pins / token).touch(mode=0o600)

    def unpin(self, token: str) -> None:
        """Whatever image it was. Idempotent."""
        for name in _listed(self._folder / "pins"):
            (self._folder / "pins" / name / token).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """All, the one used last first."""
        found = [self._entry(f"sha256:{name}") for name in _listed(self._folder / "images") if name[0] != "."]
        there = [entry for entry in found if entry is not None]
        return sorted(there, key=lambda entry: entry.last_used_at, reverse=True)

    def entry(self, digest: str) -> Entry:
        """Raises `ImageNotFound`."""
        found = self._entry(digest) if _DIGEST.fullmatch(digest) else None
        if found is None:
            raise ImageNotFound(f"there is no image {digest!r} here", mend="`dms-executor images ls` lists all")
        return found

    def references(self, digest: str) -> list[str]:
        """Empty where it has no entry."""
        try:
            return msgspec.json.decode(self._path(digest).read_bytes(), type=known(_Names)).references
        except (FileNotFoundError, msgspec.DecodeError):  # torn by a power cut: its names are only asked for again
            return []

    def forget(self, digest: str) -> None:
        """The daemon has it no more. Idempotent."""
        self._path(digest).unlink(missing_ok=True)
        pins = self._pins(digest)
        for token in _listed(pins):
            (pins / token).unlink(missing_ok=True)
        if pins.exists():
            pins.rmdir()

    def _entry(self, digest: str) -> Entry | None:
        try:
            used = self._path(digest).stat().st_mtime
        except FileNotFoundError:
            return None
        return Entry(
            digest=digest,
            references=self.references(digest),
            last_used_at=datetime.fromtimestamp(used, UTC),
            pinned=any((self._executions / token).exists() for token in _listed(self._pins(digest))),
        )

    def _write(self, digest: str, references: list[str]) -> None:
        path = self._path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        used = path.stat().st_mtime if path.exists() else None
        new.write_bytes(msgspec.json.encode(_Names(references)))
        if used is not None:  # what it means has changed, and nobody has used it
            os.utime(new, (used, used))
        new.rename(path)

    def _path(self, digest: str) -> Path:
        return self._folder / "images" / digest.removeprefix("sha256:")

    def _pins(self, digest: str) -> Path:
        return self._folder / "pins" / digest.removeprefix("sha256:")


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
