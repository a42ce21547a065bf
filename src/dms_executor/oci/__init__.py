"""The `oci` engine: daemonless containers by crun or runc. `OciSpec` builds its part of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .spec import OciParams, OciSettings, OciSpec

if TYPE_CHECKING:
    from .engine import OciEngine

__all__ = ["OciEngine", "OciParams", "OciSettings", "OciSpec"]


def __getattr__(name: str) -> Any:
    # Whoever only builds a request does not load the engine.
    if name == "OciEngine":
        from .engine import OciEngine

        return OciEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
