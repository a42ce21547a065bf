"""The cache of unpacked images below `<state_dir>/images`, shared by processes.

lock                    held shared while an image is looked up and pinned, exclusively by whoever collects
<digest>/rootfs, image.json, facts.json    an unpacked image; appears whole, by a rename; mtime of the second: last use
<digest>/root.erofs     the same as a block image, once a microVM has asked for it; goes with the rest
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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import msgspec

from ..trees import remove_tree
from ..typed import known
from .config import ImageConfig

__all__ = ["BLOCK_IMAGE", "Facts", "ImageStore", "Named", "Unpacked", "Workspace", "bytes_of"]

BLOCK_IMAGE = "root.erofs"
_HEX = re.compile("[0-9a-f]{64}", re.ASCII)
_LOG = logging.getLogger("dms_executor.images")


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the cache: `digest` names its folder."""

    digest: str
    config: ImageConfig


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What collection goes by: bytes on disk of the unpacked tree, and the blobs that were fetched for it."""

    size: int = 0
    blobs: list[str] = []


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
            record = self.folder / digest / "image.json"
            try:
                data = record.read_bytes()
            except FileNotFoundError:
                return None
            self._pin(digest, token)
            os.utime(record)
            return Unpacked(digest=digest, config=msgspec.json.decode(data, type=known(ImageConfig)))

    def unpin(self, token: str) -> None:
        """Lets go of whatever `token` pinned. Idempotent."""
        try:
            digests = os.listdir(self.folder / "pins")
        except FileNotFoundError:
            return
        for digest in digests:
            with suppress(FileNotFoundError):
                (self.folder / "pins" / digest / token).unlink()
                os.utime(self.folder / digest / "image.json")  # used until now

    def has(self, digest: str) -> bool:
        """Whether the image is there, pinned or not."""
        return (self.folder / digest / "image.json").exists()

    def turn(self, digest: str) -> int | None:
        """Locks out whoever else would bring that image, until the descriptor is closed; None: somebody does."""
        folder = self.folder / "turns"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            fd = os.open(folder / digest, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same(fd, folder / digest):
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its file was taken away between the two

    def forget_turn(self, digest: str) -> None:
        """Takes the file of an image that is gone away, unless somebody brings it again."""
        fd = self.turn(digest)
        if fd is not None:
            (self.folder / "turns" / digest).unlink()
            os.close(fd)

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

    def commit(self, work: Workspace, bundle: str, image: Unpacked, blobs: Sequence[str] = ()) -> None:
        """Puts `work/bundle` in its place, synced; who came second keeps the first one's."""
        made = work.path / bundle
        facts = Facts(size=bytes_of(made), blobs=list(blobs))
        (made / "facts.json").write_bytes(msgspec.json.encode(facts))
        (made / "image.json").write_bytes(msgspec.json.encode(image.config))
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

    def facts(self, digest: str) -> Facts:
        """Measured anew for an image of an earlier release, which wrote none down."""
        try:
            data = (self.folder / digest / "facts.json").read_bytes()
        except FileNotFoundError:
            return Facts(size=bytes_of(self.folder / digest))
        facts = msgspec.json.decode(data, type=known(Facts))
        with suppress(FileNotFoundError):  # made later than the rest, if at all
            made = (self.folder / digest / BLOCK_IMAGE).stat().st_blocks * 512
            facts = msgspec.structs.replace(facts, size=facts.size + made)
        return facts

    def blob(self, digest: str) -> Path:
        """Where a fetched blob is, if it is."""
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def lend(self, layout: Path, digests: Iterable[str]) -> set[str]:
        """Puts the blobs that are here into `layout` as links; gives their digests."""
        there = layout / "blobs" / "sha256"
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        lent = set()
        for digest in digests:
            name = digest.removeprefix("sha256:")
            if _HEX.fullmatch(name):
                try:
                    os.link(self.blob(digest), there / name)
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
            if _HEX.fullmatch(digest.removeprefix("sha256:")):
                self.blob(digest).unlink(missing_ok=True)

    def _pin(self, digest: str, token: str) -> None:
        folder = self.folder / "pins" / digest
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / token).touch(mode=0o600)

    def _shared(self) -> AbstractContextManager[None]:
        return self._locked(fcntl.LOCK_SH)

    def exclusive(self) -> AbstractContextManager[None]:
        """While nobody, in no process, looks an image up and pins it."""
        return self._locked(fcntl.LOCK_EX)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
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


def bytes_of(folder: Path) -> int:
    """On disk, each file once, as far as this user may look."""
    total, linked, waiting = 0, set(), [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif status.st_nlink > 1:
                        if status.st_ino in linked:
                            continue
                        linked.add(status.st_ino)
                    total += status.st_blocks * 512
        except (FileNotFoundError, PermissionError):
            continue
    return total


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


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
