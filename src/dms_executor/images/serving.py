"""The images of an engine that unpacks them itself: one cache for all its executions, made when the first needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..engine import Execution, Report
from ..errors import InvalidRequest
from ..policy import Grant, reopen
from ..types import ImageInfo
from .asked import check_platform_of
from .limits import ImageLimits
from .params import ImageParams
from .reference import Reference, parse_reference
from .store import ImageStore, Unpacked

if TYPE_CHECKING:
    from .cache import ImageCache
    from .hosts import RegistryHost
    from .unpack import Namespace

__all__ = ["EngineImages", "ImageSettings", "ServesImages"]

_DEADLINE = 1800.0


class ImageSettings(Protocol):
    """What an engine's settings say of images (docs/images.md)."""

    @property
    def umoci(self) -> str | None: ...
    @property
    def skopeo(self) -> str | None: ...
    @property
    def registries(self) -> dict[str, RegistryHost]: ...
    @property
    def auth_file(self) -> str | None: ...
    @property
    def image_limits(self) -> ImageLimits: ...


class EngineImages:
    """Belongs to one event loop."""

    def __init__(self, settings: ImageSettings, store: ImageStore) -> None:
        self._settings = settings
        self._store = store
        self._cache: ImageCache | None = None

    async def bring(
        self,
        x: Execution,
        params: ImageParams,
        reference: Reference,
        grant: Grant | None,
        cache: ImageCache,
        report: Report,
    ) -> Unpacked:
        """The execution's image, pinned for it. Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`."""
        deadline = x.request.prepare_timeout or _DEADLINE
        if grant is None:
            return await cache.bring(reference, None, params.image, x.token, report, deadline, params.pull)
        with await asyncio.to_thread(reopen, grant, field="$.engine_spec.params.image") as granted:
            return await cache.bring(reference, granted, params.image, x.token, report, deadline)

    def cache(self, namespace: Callable[[], Namespace | None]) -> ImageCache:
        """One for all executions: whoever asks for the same image shares one pull. `namespace`: of an ordinary user."""
        if self._cache is None:
            # Not at start-up: only images need them.
            from .cache import ImageCache
            from .registry import Registries
            from .unpack import Unpacker

            chosen = self._settings
            unpacker = Unpacker(self._store, umoci=chosen.umoci, namespace=namespace(), limits=chosen.image_limits)
            registries = Registries(skopeo=chosen.skopeo, hosts=chosen.registries, auth_file=chosen.auth_file)
            self._cache = ImageCache(self._store, unpacker, registries, skopeo=chosen.skopeo)
        return self._cache


class ServesImages:
    """What such an engine has of the power `images`."""

    name: ClassVar[str]

    async def _image_cache(self) -> ImageCache:
        raise NotImplementedError

    async def images(self) -> list[ImageInfo]:
        """What is in the cache, the one used last first."""
        return await (await self._image_cache()).images()

    async def pull_image(self, image: str, platform: str | None, report: Report) -> ImageInfo:
        """Raises `InvalidRequest`, `NotSupported`, `ImageNotFound`, `ImagePullFailed`."""
        reference = parse_reference(image, self.name)
        check_platform_of(platform, self.name)
        if reference.is_local:
            raise InvalidRequest(f"{image!r} is of no registry", path="$.image", mend="Only those are pulled ahead")
        return await (await self._image_cache()).pull(reference, image, report, _DEADLINE)

    async def remove_image(self, digest: str) -> int:
        """Raises `ImageNotFound`, `ImageInUse`."""
        return await (await self._image_cache()).remove(digest)

    async def prune_images(self, *, age: float, size: int) -> tuple[int, int]:
        """How many went, and how many bytes that freed."""
        return await (await self._image_cache()).prune(age=age, size=size)
