"""From a layout or an archive to an unpacked image in the cache, by `umoci` and `skopeo`.

Both get paths of our own making only: the granted folder or file is named through `/proc/<pid>/fd`, so that what they
read is what was granted, however its path is swapped meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from ..engine import Report
from ..errors import EngineUnavailable, ImageNotFound, ImagePullFailed, StartFailed
from ..policy import Granted
from ..supervisor import tether
from ..threads import finished
from ..types import Progress
from .flight import Flights
from .layout import LayoutImage, open_blob, read_layout
from .reference import Reference
from .store import ImageStore, Unpacked, Workspace

__all__ = ["Namespace", "Unpacker"]

_TAG = "image"
_AT_ONCE = 3  # programs of an unpacking that run in one process; further ones wait their turn


class Namespace(Protocol):
    """How an ordinary user becomes root of a user namespace, in which a file of an image can have any owner."""

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` there. Blocks."""

    async def remove(self, folder: int, name: str) -> None:
        """Removes a tree in the opened `folder`."""


class Unpacker:
    """Brings images into `store`. `namespace`: for a caller who is not root."""

    def __init__(
        self,
        store: ImageStore,
        *,
        umoci: str | None = None,
        skopeo: str | None = None,
        namespace: Namespace | None = None,
    ) -> None:
        self._namespace = namespace
        self.store = store
        self._flights = Flights()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._umoci = umoci
        self._skopeo = skopeo

    async def unpacked(
        self, reference: Reference, granted: Granted, image: str, token: str, report: Report, deadline: float
    ) -> Unpacked:
        """The image, pinned for `token`. Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`."""
        if reference.transport == "oci":
            return await self._from_layout(granted.fd, reference.tag, image, token, report, deadline)
        key = await asyncio.to_thread(_archive_key, granted.fd, reference)
        known = await asyncio.to_thread(self.store.remembered, key)
        found = await asyncio.to_thread(self.store.find, known, token) if known else None
        if found is not None:
            return found
        work = await finished(self.store.discard, self.store.workspace)
        try:
            await self._copy_archive(work, reference, granted.fd, image, deadline)
            fd = os.open(work.path / "copied", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                unpacked = await self._from_layout(fd, _TAG, image, token, report, deadline)
            finally:
                os.close(fd)
        finally:
            await finished(None, self.store.discard, work)
        await asyncio.to_thread(self.store.remember, key, unpacked.digest)
        return unpacked

    async def _from_layout(
        self, layout: int, tag: str | None, image: str, token: str, report: Report, deadline: float
    ) -> Unpacked:
        found = await asyncio.to_thread(read_layout, layout, tag, image)
        ready = await asyncio.to_thread(self.store.find, found.digest, token)
        while ready is None:
            report(Progress(what=f"unpacking {image}", done=0, unit="layers"))
            await self._flights.join(found.digest, lambda: self._unpack(layout, found, image, deadline))
            # Collected between the two, by another process: once more.
            ready = await asyncio.to_thread(self.store.find, found.digest, token)
        return ready

    async def _unpack(self, layout: int, found: LayoutImage, image: str, deadline: float) -> None:
        # The first asker may leave before the others at any await, and its descriptor with it.
        own = os.dup(layout)
        try:
            umoci = await asyncio.to_thread(_program, "umoci", self._umoci)
            work = await finished(self.store.discard, self.store.workspace)
        except BaseException:
            os.close(own)
            raise
        blobs: list[int] = []
        try:
            await asyncio.to_thread(_single_layout, work.path, own, found, image, blobs, self._namespace is not None)
            # `raw`: no runtime configuration, for which umoci would open the image's own /etc/passwd, whatever it is.
            argv = [umoci, "raw", "unpack", "--image", f"{work.path}/layout:{_TAG}", f"{work.path}/bundle/rootfs"]
            if self._namespace is not None:
                argv = await asyncio.to_thread(self._namespace.inside, argv)
            async with self._turns:
                await _run(argv, image, deadline)
            unpacked = Unpacked(digest=found.digest, config=found.config)
            await asyncio.to_thread(self.store.commit, work, "bundle", unpacked)
        finally:
            for fd in (own, *blobs):
                os.close(fd)
            await self._discard(work)

    async def _discard(self, work: Workspace) -> None:
        try:
            await finished(None, self.store.discard, work)
        except PermissionError:
            if self._namespace is None:
                raise
            # What an image's layers gave to others is not ours to remove.
            await self._namespace.remove(work.fd, "bundle")
            await finished(None, self.store.discard, work)

    async def _copy_archive(
        self, work: Workspace, reference: Reference, file: int, image: str, deadline: float
    ) -> None:
        tag = f":{reference.tag}" if reference.tag else ""
        source = f"{reference.transport}:/proc/{os.getpid()}/fd/{file}{tag}"
        skopeo = await asyncio.to_thread(_program, "skopeo", self._skopeo)
        argv = [skopeo, "--insecure-policy", "copy", "--quiet", source]
        async with self._turns:
            await _run([*argv, f"oci:{work.path}/copied:{_TAG}"], image, deadline)


async def _run(argv: list[str], image: str, deadline: float) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/nonexistent", "TMPDIR": "/tmp"}
    try:
        done = await tether.run(argv, environment=environment, deadline=deadline)
    except StartFailed as error:
        raise ImagePullFailed(f"image {image!r}: {error.message}", mend="Raise prepare_timeout") from error
    if done.code == 0:
        return
    said, name = done.complaint, Path(argv[0]).name
    if "no space left" in said.lower():
        raise ImagePullFailed(f"no space left to unpack {image!r}", mend="Free space below the state folder")
    raise ImageNotFound(f"image {image!r} cannot be unpacked: {name} says: {said}", mend="Make or copy the image again")


def _single_layout(folder: Path, layout: int, found: LayoutImage, image: str, blobs: list[int], copied: bool) -> None:
    """A layout with this one image and a tag of ours, and a folder for its root.

    Its blobs are those of the granted layout, each opened beneath it and a regular file: umoci would follow a symlink
    of a stranger's anywhere, and open a device. `blobs` gets the descriptors, to be closed when umoci is done.
    `copied`: from another user namespace nobody can follow a link to our descriptors.
    """
    made = folder / "layout"
    (folder / "bundle").mkdir(mode=0o700)
    (made / "blobs" / "sha256").mkdir(mode=0o700, parents=True)
    (made / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="ascii")
    descriptor = {
        "mediaType": found.manifest.media_type or "application/vnd.oci.image.manifest.v1+json",
        "digest": found.manifest.digest,
        "size": found.manifest.size,
        "annotations": {"org.opencontainers.image.ref.name": _TAG},
    }
    (made / "index.json").write_bytes(msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor]}))
    for digest in found.blobs:
        blobs.append(open_blob(layout, digest, image))
        path = made / "blobs" / digest.replace(":", "/")
        if copied:
            with open(blobs[-1], "rb", closefd=False) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            path.symlink_to(f"/proc/{os.getpid()}/fd/{blobs[-1]}")


def _archive_key(file: int, reference: Reference) -> str:
    status = os.fstat(file)
    words = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, reference.tag)
    return hashlib.sha256(repr((reference.transport, *words)).encode()).hexdigest()


def _program(name: str, given: str | None) -> str:
    found = shutil.which(given or name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise EngineUnavailable(f"{name} is not installed, and this image needs it", mend=f"apt-get install {name}")
    return found
