"""How far a download is. Skopeo tells nobody but a terminal, so the files that grow are looked at."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..engine import Report
from ..types import Progress

__all__ = ["watched"]

_EACH = 0.2  # seconds between two looks: as often as a reader of a bar cares


@asynccontextmanager
async def watched(layout: Path, total: int, what: str, report: Report) -> AsyncIterator[None]:
    """Reports the growth of `layout` in bytes, from 0 to `total`. What lay there before is not counted."""
    before = await asyncio.to_thread(_bytes, layout)
    report(Progress(what=what, done=0, total=total))
    task = asyncio.ensure_future(_watch(layout, before, total, what, report))
    try:
        yield
        report(Progress(what=what, done=total, total=total))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(layout: Path, before: int, total: int, what: str, report: Report) -> None:
    last = 0
    while True:
        await asyncio.sleep(_EACH)
        done = min(await asyncio.to_thread(_bytes, layout) - before, total)
        if done > last:
            last = done
            report(Progress(what=what, done=done, total=total))


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
