"""A small file system of a test's own. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["mounted"]


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[Path]:
    """`words`: mount(8)'s, of a kind that has no device; a folder in `folder`."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", *words, "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
