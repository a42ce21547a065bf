"""Engines by name, from the entry points `dms_executor.engines`; imported when first asked for, never before.

A missing optional dependency hurts only its own engine.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .engine import Engine
from .errors import EngineUnavailable, InvalidRequest

__all__ = ["engine_class", "engine_names", "register"]

GROUP = "dms_executor.engines"
_registered: dict[str, type[Engine]] = {}

# The engines of this package are found without a look at the metadata of all that is installed (20 ms).
_OURS = {
    "oci": "dms_executor.oci:OciEngine",
    "docker": "dms_executor.docker:DockerEngine",
    "firecracker": "dms_executor.firecracker:FirecrackerEngine",
    "qemu": "dms_executor.qemu:QemuEngine",
    "memory": "dms_executor.testing:MemoryEngine",
}


def register(engine: type[Engine]) -> None:
    """Makes an engine known to this process without an entry point."""
    _registered[engine.name] = engine


def engine_names() -> list[str]:
    """All engines that are installed, in the order of their names."""
    return sorted({*_OURS, *_registered, *_foreign()})


def engine_class(name: str) -> type[Engine]:
    """The engine of that name. Raises `InvalidRequest` (no such engine), `EngineUnavailable` (its import fails)."""
    if name in _registered:
        return _registered[name]
    entry = EntryPoint(name, _OURS[name], GROUP) if name in _OURS else _foreign().get(name)
    if entry is None:
        raise InvalidRequest(
            f"there is no engine {name!r}",
            path="$.engine_spec.type",
            mend=f"Installed are: {', '.join(engine_names())}",
        )
    try:
        loaded = entry.load()
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {name} cannot be imported: {error}",
            mend=f"Install what it needs: pip install 'dms-executor[{name}]'",
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Engine)):
        raise EngineUnavailable(f"{entry.value} is no Engine", mend="Its entry point must name a subclass of Engine")
    return loaded


@cache
def _foreign() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _OURS}
