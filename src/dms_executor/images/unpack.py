"""From a layout to an unpacked image in the store, by `umoci`.

It gets paths of our own making only: what was granted is named through `/proc/<pid>/fd`, so that what it reads is what
was granted, however its path is swapped meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from ..engine import Report
from ..errors import ImageNotFound, ImagePullFailed, StartFailed
from ..supervisor import tether
from ..threads import finished
from ..types import Progress
from .layout import LayoutImage, open_blob
from .limits import ImageLimits
from .measure import Measure
from .programs import program
from .store import ImageStore, Unpacked, Workspace

__all__ = ["TAG", "Namespace", "Unpacker"]

TAG = "image"
_AT_ONCE = 3  # programs that run in one process; further ones wait their turn
_LOCKED = 0.1


class Namespace(Protocol):
    """How an ordinary user becomes root of a user namespace, in which a file of an image can have any owner."""

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` there. Blocks."""

    async def remove(self, folder: int, name: str) -> None:
        """Removes a tree in the opened `folder`."""


class Unpacker:
    """Puts images into `store`. `namespace`: for a caller who is not root. `limits`: most that one may hold."""

    def __init__(
        self,
        store: ImageStore,
        *,
        umoci: str | None = None,
        namespace: Namespace | None = None,
        limits: ImageLimits = ImageLimits(),
    ) -> None:
        self.limits = limits
        self._namespace = namespace
        self._store = store
        self._umoci = umoci
        self.turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def alone(self, digest: str, image: str, report: Report) -> AsyncIterator[None]:
        """While nobody else, in no process, brings that image."""
        fd = await finished(_close, self._store.turn, digest)
        while fd is None:
            report(Progress(what=f"waiting for another process to bring {image}", done=0, unit="images"))
            await asyncio.sleep(_LOCKED)  # flock has no event; the holder's death frees it
            fd = await finished(_close, self._store.turn, digest)
        try:
            yield
        finally:
            os.close(fd)

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[Workspace]:
        """A temporary folder of the store, gone at the end."""
        work = await finished(self._store.discard, self._store.workspace)
        try:
            yield work
        finally:
            await self._discard(work)

    async def unpack(
        self,
        layout: int,
        found: LayoutImage,
        digest: str,
        image: str,
        report: Report,
        deadline: float,
        blobs: Sequence[str] = (),
    ) -> None:
        """The image of the opened `layout`, as `digest`; `blobs`: what the store keeps for it.

        Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`.
        """
        umoci = await asyncio.to_thread(program, "umoci", self._umoci)
        opened: list[int] = []
        async with self.workspace() as work:
            try:
                await asyncio.to_thread(_single_layout, work.path, layout, found, image, opened, bool(self._namespace))
                await self.measure(_layers(work.path, found), image)
                report(Progress(what=f"unpacking {image}", done=0, total=len(found.layers), unit="layers"))
                # `raw`: no runtime configuration, for which umoci would open the image's own /etc/passwd, whatever that
                # is.
                argv = [umoci, "raw", "unpack", "--image", f"{work.path}/layout:{TAG}", f"{work.path}/bundle/rootfs"]
                if self._namespace is not None:
                    argv = await asyncio.to_thread(self._namespace.inside, argv)
                async with self.turns:
                    await run_local(argv, image, deadline)
                unpacked = Unpacked(digest=digest, config=found.config)
                await asyncio.to_thread(self._store.commit, work, "bundle", unpacked, blobs)
            finally:
                for fd in opened:
                    os.close(fd)

    async def measure(self, layers: Sequence[tuple[Path, str]], image: str) -> None:
        """What these archives, each with its media type, hold together. Raises `ImagePullFailed`, `ImageNotFound`."""
        measure = Measure(self.limits, image)

        def all_of_them() -> None:
            for path, media_type in layers:
                measure.add(path, media_type)

        try:
            await asyncio.to_thread(all_of_them)
        finally:
            measure.stop()

    async def _discard(self, work: Workspace) -> None:
        try:
            await finished(None, self._store.discard, work)
        except PermissionError:
            if self._namespace is None:
                raise
            # What an image's layers gave to others is not ours to remove.
            for name in await asyncio.to_thread(os.listdir, work.path):
                await self._namespace.remove(work.fd, name)
            await finished(None, self._store.discard, work)


async def run_local(argv: list[str], image: str, deadline: float) -> None:
    """Runs a program that reads what was granted and writes below the store."""
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


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _single_layout(folder: Path, layout: int, found: LayoutImage, image: str, blobs: list[int], copied: bool) -> None:
    """A layout with this one image and a tag of ours, and a folder for its root.

    Its blobs are those of the granted layout, each opened beneath it and a regular file: umoci would follow a symlink
    of a stranger's anywhere, and open a device. `blobs` gets the descriptors, to be closed when umoci is done.
    `copied`: from another user namespace nobody can follow a link to our descriptors. What others can write is copied,
    too: it is measured, and must be the same when it is unpacked.
    """
    made = folder / "layout"
    (folder / "bundle").mkdir(mode=0o700)
    (made / "blobs" / "sha256").mkdir(mode=0o700, parents=True)
    (made / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="ascii")
    descriptor = {
        "mediaType": found.manifest.media_type or "application/vnd.oci.image.manifest.v1+json",
        "digest": found.manifest.digest,
        "size": found.manifest.size,
        "annotations": {"org.opencontainers.image.ref.name": TAG},
    }
    (made / "index.json").write_bytes(msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor]}))
    for digest in found.blobs:
        blobs.append(open_blob(layout, digest, image))
        path = made / "blobs" / digest.replace(":", "/")
        if copied or _is_others(blobs[-1]):
            with open(blobs[-1], "rb", closefd=False) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            path.symlink_to(f"/proc/{os.getpid()}/fd/{blobs[-1]}")


def _is_others(fd: int) -> bool:
    status = os.fstat(fd)
    return status.st_uid != os.geteuid() or bool(status.st_mode & 0o022)


def _layers(folder: Path, found: LayoutImage) -> list[tuple[Path, str]]:
    blobs = folder / "layout" / "blobs"
    return [(blobs / layer.digest.replace(":", "/"), layer.media_type) for layer in found.layers]
