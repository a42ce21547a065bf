"""The power `images`: what this state folder had the daemon pull, listed, brought and taken away.

A name is taken away by name, so that an image which somebody else has named, too, stays theirs; the daemon itself keeps
one that any container uses. https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import ClassVar

from ..engine import Report
from ..errors import EngineUnreachable, ImageInUse, ImageNotFound, NotSupported
from ..images import parse_reference
from ..threads import finished
from ..types import ImageInfo
from .client import ApiError, Client
from .kept import Entry, Kept
from .pulling import Found, Images

__all__ = ["StoredImages"]

_REMOVAL = 60.0
_CONFLICT = 409


class StoredImages:
    """What the engine has of it."""

    name: ClassVar[str]
    _client: Client
    _images: Images
    _kept: Kept

    async def images(self) -> list[ImageInfo]:
        """The one used last first; one that somebody else took away is no more listed."""
        entries = await asyncio.to_thread(self._kept.entries)
        looked = [(entry, await self._images.look(entry.digest)) for entry in entries]
        return [_info(entry, found) for entry, found in looked if found is not None]

    async def pull_image(self, image: str, platform: str | None, report: Report) -> ImageInfo:
        """Raises `InvalidRequest`, `NotSupported`, `ImageNotFound`, `ImagePullFailed`."""
        if parse_reference(image, "docker").is_local:
            raise NotSupported(
                f"engine {self.name} takes no image from a file ({image!r})",
                engine=self.name,
                what="$.image",
                mend="Give it to the daemon by `docker load`, and use its name",
            )
        token = f"pull-{os.urandom(8).hex()}"
        try:
            found = await self._images.find(image.removeprefix("docker://"), platform, "always", token, report)
            return await asyncio.to_thread(self._told, image, found)
        finally:
            await finished(None, self._kept.unpin, token)

    async def remove_image(self, digest: str) -> int:
        """The bytes that this freed, layers counted that other images share. Raises `ImageNotFound`, `ImageInUse`."""
        async with self._images.locked(alone=True):
            entry = await asyncio.to_thread(self._kept.entry, digest)
            if entry.pinned:
                raise ImageInUse(
                    f"the image {digest} is used by executions",
                    mend="Wait for their end, or cancel them: `dms-executor ps`",
                )
            return await self._taken(entry)

    async def prune_images(self, *, age: float, size: int) -> tuple[int, int]:
        """How many went, and how many bytes that freed."""
        oldest_first = (await self.images())[::-1]
        total = sum(info.size for info in oldest_first)
        count = freed = 0
        for info in oldest_first:
            idle = time.time() - info.last_used_at.timestamp()
            if info.pinned or (idle < age and total - freed <= size):
                continue
            try:
                freed += await self.remove_image(info.digest)
            except ImageInUse:  # since it was listed, or by a container of somebody else's
                continue
            count += 1
        return count, freed

    def _told(self, image: str, found: Found) -> ImageInfo:
        """Of one that was here before nothing is kept: it is its owner's."""
        try:
            return _info(self._kept.entry(found.id), found)
        except ImageNotFound:
            name = parse_reference(image).path
            now = datetime.now(UTC)
            return _info(Entry(digest=found.id, references=[name], last_used_at=now, pinned=False), found)

    async def _taken(self, entry: Entry) -> int:
        """Our names of it, and itself where nobody else has named it."""
        found = await self._images.look(entry.digest)
        for reference in entry.references if found is not None else []:
            named = await self._images.look(reference)
            if named is not None and named.id == entry.digest:  # else it means another by now
                await self._delete(reference, entry.digest)
        left = await self._images.look(entry.digest)
        if left is not None and not left.repo_tags:
            await self._delete(entry.digest, entry.digest)
            left = None
        await asyncio.to_thread(self._kept.forget, entry.digest)
        return found.size if found is not None and left is None else 0

    async def _delete(self, name: str, digest: str) -> None:
        try:
            await self._client.call("DELETE", f"/images/{name}", deadline=_REMOVAL)
        except ApiError as error:
            if error.status == _CONFLICT:
                raise ImageInUse(f"the image {digest}: {error.message}", mend="Remove that container first") from error
            if error.status != 404:
                raise EngineUnreachable(error.message) from error


def _info(entry: Entry, found: Found) -> ImageInfo:
    return ImageInfo(
        digest=entry.digest,
        references=entry.references,
        platform=found.platform,
        size=found.size,
        last_used_at=entry.last_used_at,
        pinned=entry.pinned,
    )
