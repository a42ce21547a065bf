"""The images of this engine: one cache for all its executions, made when the first one needs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..engine import Execution, Report
from ..errors import InvalidRequest
from ..images import ImageStore, Reference, Unpacked, parse_reference
from ..policy import Grant, reopen
from ..types import ImageInfo
from . import inside
from .check import ENGINE, check_platform_of
from .host import Host
from .spec import OciParams, OciSettings

if TYPE_CHECKING:
    from ..images.cache import ImageCache

__all__ = ["Images", "OciImages"]

_DEADLINE = 1800.0


class OciImages:
    """Belongs to one event loop."""

    def __init__(self, settings: OciSettings, store: ImageStore) -> None:
        self._settings = settings
        self._store = store
        self._cache: ImageCache | None = None

    async def bring(
        self, x: Execution, params: OciParams, reference: Reference, grant: Grant | None, host: Host, report: Report
    ) -> Unpacked:
        """The execution's image, pinned for it. Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`."""
        cache = self.cache(host)
        deadline = x.request.prepare_timeout or _DEADLINE
        if grant is None:
            return await cache.bring(reference, None, params.image, x.token, report, deadline, params.pull)
        with await asyncio.to_thread(reopen, grant, field="$.engine_spec.params.image") as granted:
            return await cache.bring(reference, granted, params.image, x.token, report, deadline)

    def cache(self, host: Host) -> ImageCache:
        """One for all executions: whoever asks for the same image shares one pull."""
        if self._cache is None:
            # Not at start-up: only images need them.
            from ..images.cache import ImageCache
            from ..images.registry import Registries
            from ..images.unpack import Unpacker

            chosen = self._settings
            namespace = inside.Namespace(host.rootless) if host.rootless is not None else None
            unpacker = Unpacker(self._store, umoci=chosen.umoci, namespace=namespace, limits=chosen.image_limits)
            registries = Registries(skopeo=chosen.skopeo, hosts=chosen.registries, auth_file=chosen.auth_file)
            self._cache = ImageCache(self._store, unpacker, registries, skopeo=chosen.skopeo)
        return self._cache


class Images:
    """What the engine has of the power `images`."""

    _images: OciImages

    async def _ready(self) -> Host:
        raise NotImplementedError

    async def images(self) -> list[ImageInfo]:
        """What is in the cache, the one used last first."""
        return await self._images.cache(await self._ready()).images()

    async def pull_image(self, image: str, platform: str | None, report: Report) -> ImageInfo:
        """Raises `InvalidRequest`, `NotSupported`, `ImageNotFound`, `ImagePullFailed`."""
        reference = parse_reference(image, ENGINE)
        check_platform_of(platform)
        if reference.is_local:
            raise InvalidRequest(f"{image!r} is of no registry", path="$.image", mend="Only those are pulled ahead")
        return await self._images.cache(await self._ready()).pull(reference, image, report, _DEADLINE)

    async def remove_image(self, digest: str) -> int:
        """Raises `ImageNotFound`, `ImageInUse`."""
        return await self._images.cache(await self._ready()).remove(digest)

    async def prune_images(self, *, age: float, size: int) -> tuple[int, int]:
        """How many went, and how many bytes that freed."""
        return await self._images.cache(await self._ready()).prune(age=age, size=size)
