"""The images of this engine: one cache for all its executions, made when the first one needs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..engine import Execution, Report
from ..images import ImageStore, Reference, Unpacked
from ..policy import Grant, reopen
from . import inside
from .host import Host
from .spec import OciParams, OciSettings

if TYPE_CHECKING:
    from ..images.cache import ImageCache

__all__ = ["OciImages"]

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
            unpacker = Unpacker(self._store, umoci=chosen.umoci, namespace=namespace)
            registries = Registries(skopeo=chosen.skopeo, hosts=chosen.registries, auth_file=chosen.auth_file)
            self._cache = ImageCache(self._store, unpacker, registries, skopeo=chosen.skopeo)
        return self._cache
