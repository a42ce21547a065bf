"""Where `dms-shim` and `dms-init` are. Blocking: call it in a thread, it answers from a cache afterwards."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ..errors import EngineUnavailable

__all__ = ["init_path", "shim_path"]

_FOLDER = Path(__file__).resolve().parent.parent / "bin"
_MEND = (
    "Install a wheel, or build it: `pip install ziglang` (or set DMS_EXECUTOR_CC), then `pip install -e .`; in a "
    "checkout also `python native/build.py src/dms_executor/bin`"
)


def _find(name: str) -> Path:
    path = _FOLDER / name
    if not path.is_file():
        raise EngineUnavailable(f"the program {name} is not in {_FOLDER}", mend=_MEND)
    return path


def _in_memory(path: Path) -> str:
    """A copy that can be executed where the package lies on a noexec mount; lives as long as this process."""
    fd = os.memfd_create(path.name, os.MFD_CLOEXEC)
    with path.open("rb") as source:
        os.sendfile(fd, source.fileno(), 0, path.stat().st_size)
    return f"/proc/self/fd/{fd}"


@cache
def shim_path() -> str:
    """What to execute as `dms-shim`. Raises `EngineUnavailable`."""
    path = _find("dms-shim")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return _in_memory(path)
    return str(path)


@cache
def init_path() -> Path:
    """The file `dms-init`, to be bound into a container (set the executable bit's mount options there)."""
    return _find("dms-init")
