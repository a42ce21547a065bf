"""Where the programs of `native/` are. Blocking: call it in a thread, it answers from a cache afterwards."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ..errors import EngineUnavailable

__all__ = ["guest_path", "init_path", "pod_path", "shim_path", "vm_exec_path", "vm_path"]

_FOLDER = Path(__file__).parent.parent / "bin"
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
def init_path(state_dir: Path | None = None) -> Path:
    """The file `dms-init`, to be bound into a container. Raises `EngineUnavailable`.

    A bind keeps its mount's noexec: where the package lies on one, the file is a copy in `state_dir`.
    """
    return _executable("dms-init", state_dir)


@cache
def pod_path() -> Path:
    """The file `dms-pod`, which lies beside `dms-init` in a pod. Raises `EngineUnavailable`."""
    return _find("dms-pod")


@cache
def vm_path(state_dir: Path) -> Path:
    """The file `dms-vm`, to be executed by a shim: a copy in `state_dir` where the package lies on a noexec mount.

    Raises `EngineUnavailable`.
    """
    return _executable("dms-vm", state_dir)


@cache
def vm_exec_path(state_dir: Path) -> Path:
    """The file `dms-vm-exec`, as `vm_path`."""
    return _executable("dms-vm-exec", state_dir)


@cache
def guest_path() -> Path:
    """The file `dms-guest`, the agent of a microVM. Raises `EngineUnavailable`."""
    return _find("dms-guest")


def _executable(name: str, state_dir: Path | None) -> Path:
    path = _find(name)
    if state_dir is None or not os.statvfs(path).f_flag & os.ST_NOEXEC:
        return path
    data = path.read_bytes()
    import hashlib  # only who launches needs it

    copy = state_dir / "bin" / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    if not copy.exists():
        copy.parent.mkdir(mode=0o700, exist_ok=True)
        scratch = copy.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(data)
        scratch.chmod(0o755)
        scratch.rename(copy)
    return copy
