"""Engines by name, from the entry points `dms_executor.engines`; imported when first asked for, never before.

A missing optional dependency hurts only its own engine.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .errors import EngineUnavailable, InvalidRequest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["LAST", "engine_class", "engine_names", "names_by_rank", "register"]

GROUP = "dms_executor.engines"
_registered: dict[str, type[Engine]] = {}

LAST = 1000
"""An engine of this rank or above is taken only where it is named."""

# The engines of this package with their ranks: an engine is chosen without importing those behind it, nor looking at
# the metadata of all that is installed (together 60 ms).
_OURS = {
    "oci": ("dms_executor.oci:OciEngine", 10),
    "docker": ("dms_executor.docker:DockerEngine", 20),
    "podman": ("dms_executor.docker:PodmanEngine", 25),
    "firecracker": ("dms_executor.firecracker:FirecrackerEngine", 30),
    "qemu": ("dms_executor.qemu:QemuEngine", 40),
    "kubernetes": ("dms_executor.kubernetes:KubernetesEngine", LAST),
    "memory": ("dms_executor.testing:MemoryEngine", LAST),
}


def register(engine: type[Engine]) -> None:
    """Makes an engine known to this process without an entry point."""
    _registered[engine.name] = engine


def engine_names() -> list[str]:
    """All engines that are installed, in the order of their names."""
    return sorted({*_OURS, *_registered, *_foreign()})


def names_by_rank() -> list[str]:
    """Who may run a job that names no engine, the first first. What cannot be imported is left out."""
    ranks = {name: rank for name, (_, rank) in _OURS.items()}
    for name in {*_registered, *_foreign()}:
        try:
            ranks[name] = engine_class(name).rank
        except EngineUnavailable:
            continue
    return sorted((name for name in ranks if ranks[name] < LAST), key=lambda name: (ranks[name], name))


def engine_class(name: str) -> type[Engine]:
    """The engine of that name. Raises `InvalidRequest` (no such engine), `EngineUnavailable` (its import fails)."""
    if name in _registered:
        return _registered[name]
    try:
        loaded = _load(name)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a foreign module raises: it hurts only its own engine
        raise EngineUnavailable(
            f"engine {name} cannot be imported: {error}",
            mend=f"Install what it needs: pip install 'dms-executor[{name}]'",
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Engine)):
        raise EngineUnavailable(f"engine {name} is no Engine", mend="Its entry point must name a subclass of Engine")
    return loaded


def _load(name: str) -> Any:
    if name in _OURS:
        module, _, attribute = _OURS[name][0].partition(":")
        return getattr(import_module(module), attribute)
    entry = _foreign().get(name)
    if entry is None:
        raise InvalidRequest(
            f"there is no engine {name!r}",
            path="$.engine_spec.type",
            mend=f"Installed are: {', '.join(engine_names())}",
        )
    return entry.load()


@cache
def _foreign() -> dict[str, EntryPoint]:
    if not any(map(_brings_engines, sys.path)):
        return {}
    from importlib.metadata import entry_points  # 20 ms that a plain command need not pay

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _OURS}


def _brings_engines(folder: str) -> bool:
    try:
        return _may_bring_engines(folder)
    except OSError:  # what this user may not read nobody imports
        return False


def _may_bring_engines(folder: str) -> bool:
    """Whether a package there may have engines that are not ours; True for what is no plain folder of packages."""
    place = Path(folder or ".")
    if not place.is_dir():
        return place.exists()
    for found in (*place.glob("*.dist-info/entry_points.txt"), *place.glob("*.egg*")):
        if found.name != "entry_points.txt":
            return True
        section = found.read_text(errors="replace").partition(f"[{GROUP}]")[2].partition("\n[")[0]
        if any("=" in line and line.partition("=")[0].strip() not in _OURS for line in section.splitlines()):
            return True
    return False
