"""How far a download is, and whether it goes on: by the files that grow, since skopeo tells terminals only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..engine import Report
from ..errors import ImagePullFailed
from ..types import Progress

__all__ = ["watched"]

_EACH = 0.2  # seconds between two looks: as often as a reader of a bar cares
_PATIENCE = 120.0  # seconds without a byte


@asynccontextmanager
async def watched(layout: Path, total: int, what: str, report: Report) -> AsyncIterator[None]:
    """Reports the growth of `layout` in bytes, from 0 to `total`. What lay there before is not counted.

    Raises `ImagePullFailed` where nothing more comes: slow is no fault, silent is.
    """
    before = await asyncio.to_thread(_bytes, layout)
    report(Progress(what=what, done=0, total=total))
    try:
        async with asyncio.timeout(_PATIENCE) as patience:
            task = asyncio.ensure_future(_watch(layout, before, total, what, report, patience))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    except TimeoutError:
        raise ImagePullFailed(
            f"{what}: nothing came for {_PATIENCE:g} s", mend="Look whether the registry is well, and try again"
        ) from None
    report(Progress(what=what, done=total, total=total))


async def _watch(layout: Path, before: int, total: int, what: str, report: Report, patience: asyncio.Timeout) -> None:
    last = shown = 0
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_EACH)
        grown = await asyncio.to_thread(_bytes, layout) - before
        if grown != last and not patience.expired():
            patience.reschedule(loop.time() + _PATIENCE if grown < total else None)
            last = grown
        if min(grown, total) > shown:
            shown = min(grown, total)
            report(Progress(what=what, done=shown, total=total))


def _bytes(layout: Path) -> int:
    """Of whole blobs, and of those that are being written beside them."""
    return sum(_size(entry) for folder in (layout, layout / "blobs/sha256") for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    except FileNotFoundError:
        return 0
