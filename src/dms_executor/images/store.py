"""The cache of unpacked images below `<state_dir>/images`, shared by processes.

lock                    held shared while an image is looked up and pinned, exclusively by whoever collects
<digest>/rootfs, image.json    an unpacked image; appears whole, by a rename
pins/<digest>/<token>   an execution that uses it
references/<key>        the digest of an archive that was read before
tmp/<random>            one that is being made; its maker holds a lock on it
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..trees import remove_tree
from ..typed import known
from .config import ImageConfig

__all__ = ["ImageStore", "Unpacked", "Workspace"]


_LOG = logging.getLogger("dms_executor.images")


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the cache: `digest` names its folder."""

    digest: str
    config: ImageConfig


class Workspace:
    """A temporary folder of the store that is either committed under a digest or removed."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd


class ImageStore:
    """All methods block, and are meant for a thread."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "images"

    def rootfs(self, digest: str) -> Path:
        return self.folder / digest / "rootfs"

    def find(self, digest: str, token: str) -> Unpacked | None:
        """The image if it is there, pinned for `token`."""
        with self._shared():
            try:
                data = (self.folder / digest / "image.json").read_bytes()
            except FileNotFoundError:
                return None
            self._pin(digest, token)
            return Unpacked(digest=digest, config=msgspec.json.decode(data, type=known(ImageConfig)))

    def unpin(self, token: str) -> None:
        """Lets go of whatever `token` pinned. Idempotent."""
        try:
            digests = os.listdir(self.folder / "pins")
        except FileNotFoundError:
            return
        for digest in digests:
            (self.folder / "pins" / digest / token).unlink(missing_ok=True)

    def workspace(self) -> Workspace:
        """A new temporary folder; takes away those that dead processes left."""
        parent = self.folder / "tmp"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        gate = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # One at a time: between its making and its lock a folder looks like a dead process's.
            fcntl.flock(gate, fcntl.LOCK_EX)
            self._sweep(parent)
            path = parent / os.urandom(8).hex()
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            return Workspace(path, fd)
        finally:
            os.close(gate)

    def commit(self, work: Workspace, bundle: str, image: Unpacked) -> None:
        """Puts `work/bundle` in its place, synced; who came second keeps the first one's."""
        record = work.path / bundle / "image.json"
        record.write_bytes(msgspec.json.encode(image.config))
        _sync_file_system(work.fd)
        try:
            (work.path / bundle).rename(self.folder / image.digest)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self, work: Workspace) -> None:
        """Removes the temporary folder. Idempotent."""
        if work.fd < 0:
            return
        _remove(work.path)
        os.close(work.fd)
        work.fd = -1

    def remembered(self, key: str) -> str | None:
        """The digest of an archive that was read before."""
        try:
            return (self.folder / "references" / key).read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    def remember(self, key: str, digest: str) -> None:
        folder = self.folder / "references"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{key}.{os.urandom(4).hex()}"
        temporary.write_text(digest, encoding="ascii")
        temporary.rename(folder / key)

    def _pin(self, digest: str, token: str) -> None:
        folder = self.folder / "pins" / digest
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / token).touch(mode=0o600)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def _sweep(self, parent: Path) -> None:
        for entry in list(parent.iterdir()):
            try:
                fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its maker has just discarded it
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(entry)
            except BlockingIOError:
                continue  # its maker lives
            except PermissionError:
                _LOG.warning("%s holds files of other ids: remove it with `podman unshare rm -r` or as root", entry)
            finally:
                os.close(fd)


def _remove(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(parent, path.name)
    finally:
        os.close(parent)


def _sync_file_system(fd: int) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
