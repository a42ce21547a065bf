"""From an image's name to its unpacked root in the store: the way that every asker goes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Literal

from ..engine import Report
from ..errors import ImageNotFound, ImagePullFailed
from ..policy import Granted
from ..threads import finished
from ..types import ImageInfo, Progress
from .collection import Collection
from .config import host_architecture
from .download import watched
from .flight import Flights
from .layout import LayoutImage, read_layout
from .measure import archive_type, check_announced
from .programs import program
from .reference import Reference
from .registry import Registries, Remote
from .store import ImageStore, Unpacked, Workspace
from .unpack import TAG, Unpacker, run_local

__all__ = ["ImageCache", "Pull"]

Pull = Literal["missing", "always", "never"]


class ImageCache:
    """One for all executions of a process: whoever asks for the same image shares one pull."""

    def __init__(
        self, store: ImageStore, unpacker: Unpacker, registries: Registries, *, skopeo: str | None = None
    ) -> None:
        self.store = store
        self._collection = Collection(store)
        self._unpacker = unpacker
        self._registries = registries
        self._skopeo = skopeo
        self._flights = Flights()

    async def bring(
        self,
        reference: Reference,
        granted: Granted | None,
        image: str,
        token: str,
        report: Report,
        deadline: float,
        pull: Pull = "missing",
    ) -> Unpacked:
        """The image, pinned for `token`. `granted`: the folder or file of a local one; `deadline`: of each step, in s.

        Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`.
        """
        if granted is None:
            unpacked = await self._from_registry(reference, image, token, report, deadline, pull)
        elif reference.transport == "oci":
            unpacked = await self._from_layout(granted.fd, reference.tag, image, token, report, deadline)
        else:
            unpacked = await self._from_archive(reference, granted.fd, image, token, report, deadline)
        await asyncio.to_thread(self.store.name, _name(reference), _platform(), unpacked.digest)
        return unpacked

    async def pull(self, reference: Reference, image: str, report: Report, deadline: float) -> ImageInfo:
        """Brings what a registry's name means now, ahead of its first job. Raises as `bring` does."""
        token = f"pull-{os.urandom(8).hex()}"
        try:
            unpacked = await self.bring(reference, None, image, token, report, deadline, "always")
            return await asyncio.to_thread(self._collection.image, unpacked.digest)
        finally:
            await finished(None, self.store.unpin, token)

    async def images(self) -> list[ImageInfo]:
        """All, the one used last first."""
        return await asyncio.to_thread(self._collection.images)

    async def remove(self, digest: str) -> int:
        """Takes an image away; the bytes that this freed. Raises `ImageNotFound`, `ImageInUse`."""
        async with self._unpacker.workspace() as work:
            return await asyncio.to_thread(self._collection.take, digest, work)

    async def prune(self, *, age: float, size: int) -> tuple[int, int]:
        """Takes away what nobody used for `age` s and what is too much for `size` bytes: how many images, bytes."""
        async with self._unpacker.workspace() as work:
            return await asyncio.to_thread(lambda: self._collection.take_old(age=age, size=size, work=work))

    # -- a registry's --------------------------------------------------------------------------------------------

    async def _from_registry(
        self, reference: Reference, image: str, token: str, report: Report, deadline: float, pull: Pull
    ) -> Unpacked:
        if pull != "always":
            known = await asyncio.to_thread(self.store.named, reference.path, _platform())
            found = await asyncio.to_thread(self.store.find, known, token) if known else None
            if found is not None:
                return found
            if pull == "never":
                raise ImageNotFound(
                    f"{image!r} is not here, and pull is 'never'", mend=f"`dms-executor images pull {image}` brings it"
                )

        async def resolve(tell: Report) -> Remote:
            tell(Progress(what=f"looking for {image}", done=0, unit="images"))
            return await self._registries.resolve(reference, image, deadline)

        remote = await self._flights.join(f"resolve {reference.path}", resolve, report)
        ready = await asyncio.to_thread(self.store.find, remote.folder, token)
        while ready is None:
            await self._flights.join(
                remote.folder, lambda tell: self._pull(reference, remote, image, tell, deadline), report
            )
            # Collected between the two, by another process: once more.
            ready = await asyncio.to_thread(self.store.find, remote.folder, token)
        return ready

    async def _pull(self, reference: Reference, remote: Remote, image: str, tell: Report, deadline: float) -> None:
        async with self._unpacker.alone(remote.folder, image, tell):
            if await asyncio.to_thread(self.store.has, remote.folder):
                return  # by another process, meanwhile
            async with self._unpacker.workspace() as work:
                await self._download(reference, remote, work, image, tell, deadline)
                fd = os.open(work.path / "copied", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    found = await asyncio.to_thread(read_layout, fd, TAG, image)
                    await self._unpacker.unpack(fd, found, remote.folder, image, tell, deadline, remote.blobs)
                except (ImageNotFound, ImagePullFailed):
                    # Perhaps what was kept is what is wrong.
                    await asyncio.to_thread(self.store.forget, remote.blobs)
                    raise
                finally:
                    os.close(fd)

    async def _download(
        self, reference: Reference, remote: Remote, work: Workspace, image: str, tell: Report, deadline: float
    ) -> None:
        check_announced([layer.size for layer in remote.layers], self._unpacker.limits, image)
        layout = work.path / "copied"
        lent = await asyncio.to_thread(self.store.lend, layout, remote.blobs)
        total = sum(layer.size for layer in remote.layers if layer.digest not in lent)
        try:
            async with self._unpacker.turns, watched(layout, total, f"pulling {image}", tell):
                await self._registries.copy(reference, remote, f"{layout}:{TAG}", image, deadline)
        finally:
            # Whole layers of a pull that broke are not fetched again.
            await asyncio.to_thread(self.store.keep, layout, remote.blobs)

    # -- local ones ----------------------------------------------------------------------------------------------

    async def _from_archive(
        self, reference: Reference, file: int, image: str, token: str, report: Report, deadline: float
    ) -> Unpacked:
        key = await asyncio.to_thread(_archive_key, file, reference)
        known = await asyncio.to_thread(self.store.remembered, key)
        found = await asyncio.to_thread(self.store.find, known, token) if known else None
        if found is not None:
            return found
        async with self._unpacker.workspace() as work:
            await self._copy_archive(work, reference, file, image, deadline)
            fd = os.open(work.path / "copied", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                unpacked = await self._from_layout(fd, TAG, image, token, report, deadline)
            finally:
                os.close(fd)
        await asyncio.to_thread(self.store.remember, key, unpacked.digest)
        return unpacked

    async def _from_layout(
        self, layout: int, tag: str | None, image: str, token: str, report: Report, deadline: float
    ) -> Unpacked:
        found = await asyncio.to_thread(read_layout, layout, tag, image)
        ready = await asyncio.to_thread(self.store.find, found.digest, token)
        while ready is None:
            await self._flights.join(
                found.digest, lambda tell: self._unpack(layout, found, image, tell, deadline), report
            )
            ready = await asyncio.to_thread(self.store.find, found.digest, token)
        return ready

    async def _unpack(self, layout: int, found: LayoutImage, image: str, tell: Report, deadline: float) -> None:
        # The first asker may leave before the others at any await, and its descriptor with it.
        own = os.dup(layout)
        try:
            async with self._unpacker.alone(found.digest, image, tell):
                if not await asyncio.to_thread(self.store.has, found.digest):
                    await self._unpacker.unpack(own, found, found.digest, image, tell, deadline)
        finally:
            os.close(own)

    async def _copy_archive(
        self, work: Workspace, reference: Reference, file: int, image: str, deadline: float
    ) -> None:
        tag = f":{reference.tag}" if reference.tag else ""
        path = Path(f"/proc/{os.getpid()}/fd/{file}")
        await self._unpacker.measure([(path, await asyncio.to_thread(archive_type, path))], image)
        source = f"{reference.transport}:{path}{tag}"
        skopeo = await asyncio.to_thread(program, "skopeo", self._skopeo)
        argv = [skopeo, "--insecure-policy", "copy", "--quiet", source]
        async with self._unpacker.turns:
            await run_local([*argv, f"oci:{work.path}/copied:{TAG}"], image, deadline)


def _platform() -> str:
    return f"linux/{host_architecture()}"


def _name(reference: Reference) -> str:
    """As it is listed. Host paths may be any bytes."""
    if not reference.is_local:
        return reference.path
    path = os.fsencode(reference.path).decode(errors="replace")
    return f"{reference.transport}:{path}" + (f":{reference.tag}" if reference.tag else "")


def _archive_key(file: int, reference: Reference) -> str:
    status = os.fstat(file)
    words = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, reference.tag)
    return hashlib.sha256(repr((reference.transport, *words)).encode()).hexdigest()
