"""Engines by name, from the entry points `dms_executor.engines`; imported when first asked for, never before.

A missing optional dependency hurts only its own engine.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .errors import EngineUnavailable, InvalidRequest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["engine_class", "engine_names", "register"]

GROUP = "dms_executor.engines"
_registered: dict[str, type[Engine]] = {}

# The engines of this package are found without a look at the metadata of all that is installed (20 ms).
_OURS = {
    "oci": "dms_executor.oci:OciEngine",
    "docker": "dms_executor.docker:DockerEngine",
    "podman": "dms_executor.docker:PodmanEngine",
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
        module, _, attribute = _OURS[name].partition(":")
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
    from importlib.metadata import entry_points  # 10 ms that a plain command need not pay

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _OURS}
