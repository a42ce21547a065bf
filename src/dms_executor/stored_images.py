"""The images that outlive executions: listed, brought, removed and collected, whichever engines keep them."""

from __future__ import annotations

import logging

import msgspec

from .engine import Engine, Images, Report
from .errors import EngineUnavailable, EngineUnreachable, ImageNotFound, InvalidRequest, NotSupported
from .lifecycle import Core
from .registry import engine_class, engine_names
from .types import CleanupReport, ImageInfo, Progress

__all__ = ["images", "prune", "pull_image", "remove_image"]

_log = logging.getLogger(__name__)


async def images(core: Core) -> list[ImageInfo]:
    """Of all engines that are usable, the one used last first. What two keep in one place is the lower rank's."""
    found: dict[object, ImageInfo] = {}
    for name, engine in await _keepers(core):
        try:
            for info in await engine.images():
                place = info.digest, info.size, info.last_used_at
                found.setdefault(place, msgspec.structs.replace(info, engine=name))
        except (EngineUnavailable, EngineUnreachable) as error:
            _log.debug("%s", error, extra={"engine": name})
    return sorted(found.values(), key=lambda info: info.last_used_at, reverse=True)


async def pull_image(
    core: Core, image: str, name: str | None, platform: str | None, report: Report | None
) -> ImageInfo:
    """By the engine of that name, else by the first usable one that keeps images."""
    engine = await _chosen(core, name)
    if not isinstance(engine, Images):
        raise NotSupported(f"engine {engine.name} keeps no images", engine=engine.name, what="pull_image")
    info = await engine.pull_image(image, platform, report or _unseen)
    return msgspec.structs.replace(info, engine=engine.name)


async def remove_image(core: Core, digest: str) -> int:
    """The bytes that this freed, in every engine that has it. Raises `ImageNotFound`, `ImageInUse`."""
    freed: int | None = None
    for name, engine in await _keepers(core):
        try:
            freed = (freed or 0) + await engine.remove_image(digest)
        except (ImageNotFound, EngineUnavailable, EngineUnreachable) as error:
            _log.debug("%s", error, extra={"engine": name})
    if freed is None:
        raise ImageNotFound(f"there is no image {digest!r} here", mend="`dms-executor images ls` lists all")
    return freed


async def prune(core: Core, *, age: float, size: int) -> CleanupReport:
    """Takes away what nobody used for `age` s, and what is too much for `size` bytes in an engine."""
    count = freed = 0
    for name, engine in await _keepers(core):
        try:
            gone, bytes_freed = await engine.prune_images(age=age, size=size)
        except (EngineUnavailable, EngineUnreachable) as error:
            _log.debug("%s", error, extra={"engine": name})
            continue
        count, freed = count + gone, freed + bytes_freed
    return CleanupReport(images=count, bytes_freed=freed)


async def _keepers(core: Core) -> list[tuple[str, Images]]:
    """The engines that keep images and can be opened, by their rank."""
    found: list[tuple[int, str, Images]] = []
    for name in await core.in_thread(_names):
        try:
            engine = await core.engine(name)
        except (EngineUnavailable, EngineUnreachable) as error:
            _log.debug("%s", error, extra={"engine": name})
            continue
        if isinstance(engine, Images):
            found.append((engine.rank, name, engine))
    return [(name, engine) for _, name, engine in sorted(found, key=lambda each: each[:2])]


async def _chosen(core: Core, name: str | None) -> Engine:
    if name is not None:
        return await core.engine(name)
    keepers = [await core.engine(name) for name, _ in await _keepers(core)]
    for engine in sorted(keepers, key=lambda keeper: keeper.rank):
        if (await engine.probe()).usable:
            return engine
    raise EngineUnavailable(
        "no engine that keeps images is usable here", mend="`dms-executor engines` says how to mend each"
    )


def _names() -> list[str]:
    found = []
    for name in engine_names():
        try:
            if issubclass(engine_class(name), Images):
                found.append(name)
        except (EngineUnavailable, InvalidRequest):
            continue
    return found


def _unseen(_progress: Progress) -> None:
    """Nobody asked for the progress."""
