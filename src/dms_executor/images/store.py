"""The cache of unpacked images below `<state_dir>/images`, shared by processes.

lock                    held shared while an image is looked up and pinned, exclusively by whoever collects
<digest>/rootfs, image.json    an unpacked image; appears whole, by a rename
pins/<digest>/<token>   an execution that uses it
references/<key>        the digest of an archive that was read before
names/<key>             which image a name meant last, for a platform
blobs/sha256/<hex>      what was fetched from registries, for images that share layers
turns/<digest>          locked by whoever brings that image
tmp/<random>            one that is being made; its maker holds a lock on it
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..trees import remove_tree
from ..typed import known
from .config import ImageConfig

__all__ = ["ImageStore", "Named", "Unpacked", "Workspace"]

_HEX = re.compile("[0-9a-f]{64}", re.ASCII)
_LOG = logging.getLogger("dms_executor.images")


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the cache: `digest` names its folder."""

    digest: str
    config: ImageConfig


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What a name meant last."""

    name: str
    platform: str
    digest: str


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

    def has(self, digest: str) -> bool:
        """Whether the image is there, pinned or not."""
        return (self.folder / digest / "image.json").exists()

    def turn(self, digest: str) -> int | None:
        """Locks out whoever else would bring that image, until the descriptor is closed; None: somebody does."""
        folder = self.folder / "turns"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / digest, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd

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
        """Remembers it."""
        _replace(self.folder / "references", key, digest.encode())

    def named(self, name: str, platform: str) -> str | None:
        """The digest of the image that `name` meant last."""
        try:
            data = (self.folder / "names" / _name_key(name, platform)).read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(data, type=known(Named)).digest

    def name(self, name: str, platform: str, digest: str) -> None:
        """Remembers what `name` means now."""
        data = msgspec.json.encode(Named(name=name, platform=platform, digest=digest))
        _replace(self.folder / "names", _name_key(name, platform), data)

    def lend(self, layout: Path, digests: Iterable[str]) -> set[str]:
        """Puts the blobs that are here into `layout` as links; gives their digests."""
        there = layout / "blobs" / "sha256"
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        lent = set()
        for digest in digests:
            name = digest.removeprefix("sha256:")
            if _HEX.fullmatch(name):
                try:
                    os.link(self.folder / "blobs" / "sha256" / name, there / name)
                    lent.add(digest)
                except FileNotFoundError:
                    continue
        return lent

    def keep(self, layout: Path, digests: Iterable[str]) -> None:
        """Keeps blobs of `layout`, each whole and verified by who fetched it."""
        folder = self.folder / "blobs" / "sha256"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for digest in digests:
            name = digest.removeprefix("sha256:")
            if _HEX.fullmatch(name):
                try:
                    os.link(layout / "blobs" / "sha256" / name, folder / name)
                except (FileNotFoundError, FileExistsError):
                    continue

    def forget(self, digests: Iterable[str]) -> None:
        """Drops blobs that turned out to be of no use."""
        for digest in digests:
            name = digest.removeprefix("sha256:")
            if _HEX.fullmatch(name):
                (self.folder / "blobs" / "sha256" / name).unlink(missing_ok=True)

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


def _replace(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.urandom(4).hex()}"
    temporary.write_bytes(data)
    temporary.rename(folder / name)


def _name_key(name: str, platform: str) -> str:
    return hashlib.sha256(f"{name}\0{platform}".encode(errors="surrogateescape")).hexdigest()


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
