"""Who shares the state folder: each open executor holds a lock on `owners/<uuid>` for as long as it lives.

The lock is a POSIX record lock: the kernel drops it at the process's end, however it ends, and a forked child does not
inherit it (https://man7.org/linux/man-pages/man2/fcntl_locking.2.html). It is dropped, too, when the process closes any
descriptor of the file, so nobody opens its own file twice.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import msgspec

from ..errors import StateError
from ..processes import boot_id, start_time
from ..typed import known
from .files import put

__all__ = ["Owner", "Owners"]

_FLOCK = struct.Struct("hhqqi4x")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner's file says: where its process is to be found."""

    uuid: str
    boot_id: str
    pid: int
    start_time: int
    pid_namespace: int


class Owners:
    """The folder `owners`, and this executor's own place in it. All methods block; call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self.me = Owner(
            uuid=os.urandom(16).hex(),
            boot_id=boot_id(),
            pid=os.getpid(),
            start_time=start_time(os.getpid()) or 0,
            pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
        )

    def enter(self) -> None:
        """Takes the lock. Raises `StateError` where a living owner has another pid namespace."""
        for other in self.others():
            if self.alive(other.uuid) and other.pid_namespace != self.me.pid_namespace:
                raise StateError(
                    f"{self._folder.parent} is in use from another pid namespace (pid {other.pid} there)",
                    mend="Use a state folder of its own in each container",
                )
        put(self._folder, f".{self.me.uuid}", msgspec.json.encode(self.me), durable=False)
        scratch = self._folder / f".{self.me.uuid}"
        self._descriptor = os.open(scratch, os.O_RDWR | os.O_CLOEXEC)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.rename(self._folder / self.me.uuid)  # locked before anybody can see it

    def leave(self) -> None:
        """Gives the lock up. Idempotent."""
        if self._descriptor >= 0:
            (self._folder / self.me.uuid).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def others(self) -> list[Owner]:
        """Every owner but this one, the dead included."""
        found = []
        for name in os.listdir(self._folder):
            if name.startswith(".") or name == self.me.uuid:
                continue
            try:
                found.append(msgspec.json.decode((self._folder / name).read_bytes(), type=known(Owner)))
            except (FileNotFoundError, msgspec.DecodeError):
                continue
        return found

    def alive(self, owner: str | None) -> bool:
        """Whether the executor of that uuid still holds its lock."""
        if owner is None:
            return False
        if owner == self.me.uuid:
            return True
        try:
            descriptor = os.open(self._folder / owner, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
            return bool(answer[0] != fcntl.F_UNLCK)
        finally:
            os.close(descriptor)

    def forget_dead(self) -> None:
        """Unlinks the files of owners that are gone."""
        for other in self.others():
            if not self.alive(other.uuid):
                (self._folder / other.uuid).unlink(missing_ok=True)
