"""What is in the store, and what of it may go: never an image that an execution uses, of whatever process.

A pin counts while its execution's folder is there; what a vanished state left is no pin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..errors import ImageInUse, ImageNotFound
from ..typed import known
from ..types import ImageInfo
from .config import ImageConfig
from .store import ImageStore, Named, Workspace, bytes_of

__all__ = ["Collection"]

_ORPHANED = 86400.0  # seconds that blobs of a pull which broke are kept for the next try


class Collection:
    """All methods block, and are meant for a thread."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def images(self) -> list[ImageInfo]:
        """All, the one used last first."""
        names = self._names()
        found = [info for digest in self._digests() if (info := self._info(digest, names)) is not None]
        return sorted(found, key=lambda info: info.last_used_at, reverse=True)

    def image(self, digest: str) -> ImageInfo:
        """One of them. Raises `ImageNotFound`."""
        info = self._info(_folder_name(digest), self._names())
        if info is None:
            raise _missing(digest)
        return info

    def take(self, digest: str, work: Workspace) -> int:
        """Moves an image into `work`, to be removed with it; gives the bytes that its end frees.

        Raises `ImageNotFound`, `ImageInUse`.
        """
        name = _folder_name(digest)
        with self._store.exclusive():
            info = self._info(name, {})
            if info is None:
                raise _missing(digest)
            if info.pinned:
                raise ImageInUse(
                    f"the image {digest} is used by executions",
                    mend="Wait for their end, or cancel them: `dms-executor ps`",
                )
            return self._taken(name, work)

    def take_old(self, *, age: float, size: int, work: Workspace) -> tuple[int, int]:
        """Moves into `work` what nobody used for `age` s, and then what was unused longest until `size` bytes are left.

        Gives how many images, and how many bytes that frees.
        """
        count = freed = 0
        with self._store.exclusive():
            oldest_first = self.images()[::-1]
            total = sum(self._own_size(info.digest) for info in oldest_first) + self._blob_bytes()
            for info in oldest_first:
                idle = time.time() - info.last_used_at.timestamp()
                if info.pinned or (idle < age and total - freed <= size):
                    continue
                freed += self._taken(_folder_name(info.digest), work)
                count += 1
            freed += self._drop_orphans()
        return count, freed

    # -- within --------------------------------------------------------------------------------------------------

    def _taken(self, name: str, work: Workspace) -> int:
        folder = self._store.folder
        facts = self._store.facts(name)
        bundles = work.path / "bundle"
        bundles.mkdir(mode=0o700, exist_ok=True)
        (folder / name).rename(bundles / name)
        for path, named in self._name_files():
            if named.digest == name:
                path.unlink(missing_ok=True)
        for path in _files(folder / "references"):
            if path.read_bytes() == name.encode():
                path.unlink(missing_ok=True)
        self._drop_pins(name)
        self._store.forget_turn(name)
        shared = {blob for digest in self._digests() for blob in self._store.facts(digest).blobs}
        return facts.size + self._drop_blobs(set(facts.blobs) - shared)

    def _info(self, name: str, names: dict[str, list[str]]) -> ImageInfo | None:
        record = self._store.folder / name / "image.json"
        try:
            config = msgspec.json.decode(record.read_bytes(), type=known(ImageConfig))
            used = record.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        facts = self._store.facts(name)
        return ImageInfo(
            digest=name.replace("-", ":", 1),
            references=sorted(names.get(name, [])),
            platform=f"{config.os or 'linux'}/{config.architecture or 'unknown'}",
            size=facts.size + sum(self._blob_size(blob) for blob in facts.blobs),
            last_used_at=datetime.fromtimestamp(used, UTC),
            pinned=self._pinned(name),
        )

    def _digests(self) -> list[str]:
        try:
            entries = os.listdir(self._store.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in entries if name.startswith("sha256-"))

    def _pinned(self, name: str) -> bool:
        return any(self._lives(token) for token in _listed(self._store.folder / "pins" / name))

    def _lives(self, token: str) -> bool:
        return (self._store.folder.parent / "executions" / token).exists()

    def _drop_pins(self, name: str) -> None:
        """Those that no execution has: what has one is not taken."""
        folder = self._store.folder / "pins" / name
        for token in _listed(folder):
            (folder / token).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()

    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for _, named in self._name_files():
            found.setdefault(named.digest, []).append(named.name)
        return found

    def _name_files(self) -> Iterator[tuple[Path, Named]]:
        for path in _files(self._store.folder / "names"):
            try:
                yield path, msgspec.json.decode(path.read_bytes(), type=known(Named))
            except (FileNotFoundError, msgspec.DecodeError):
                continue  # replaced just now, or torn by a power cut: a name is only asked for again

    def _own_size(self, digest: str) -> int:
        return self._store.facts(_folder_name(digest)).size

    def _blob_size(self, digest: str) -> int:
        try:
            return self._store.blob(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def _blob_bytes(self) -> int:
        return bytes_of(self._store.folder / "blobs")

    def _drop_blobs(self, digests: set[str]) -> int:
        freed = sum(self._blob_size(digest) for digest in digests)
        self._store.forget(digests)
        return freed

    def _drop_orphans(self) -> int:
        used = {blob for digest in self._digests() for blob in self._store.facts(digest).blobs}
        old = set()
        for path in _files(self._store.folder / "blobs/sha256"):
            digest = f"sha256:{path.name}"
            if digest not in used and time.time() - path.stat().st_mtime >= _ORPHANED:
                old.add(digest)
        return self._drop_blobs(old)


def _folder_name(digest: str) -> str:
    name = digest.replace(":", "-", 1)
    if not name.startswith("sha256-") or not name[7:].isalnum():
        raise _missing(digest)
    return name


def _missing(digest: str) -> ImageNotFound:
    return ImageNotFound(f"there is no image {digest!r} here", mend="`dms-executor images ls` lists all")


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _listed(folder) if not name.startswith(".")]
