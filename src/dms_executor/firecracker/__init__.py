"""The `firecracker` engine: microVMs by Firecracker."""

from .engine import FirecrackerEngine
from .spec import FirecrackerParams, FirecrackerSettings, FirecrackerSpec

__all__ = ["FirecrackerEngine", "FirecrackerParams", "FirecrackerSettings", "FirecrackerSpec"]
