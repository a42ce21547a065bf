"""The programs that bring and unpack images."""

from __future__ import annotations

import shutil

from ..errors import EngineUnavailable

__all__ = ["program"]

_SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str, given: str | None) -> str:
    """Its path; `given`: the one that the settings name. Raises `EngineUnavailable`. Blocks."""
    found = shutil.which(given or name, path=_SEARCHED)
    if found is None:
        raise EngineUnavailable(f"{name} is not installed, and this image needs it", mend=f"apt-get install {name}")
    return found
