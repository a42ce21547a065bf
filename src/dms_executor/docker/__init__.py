"""The `docker` engine: containers by a Docker daemon."""

from .engine import DockerEngine
from .spec import DockerParams, DockerSettings, DockerSpec

__all__ = ["DockerEngine", "DockerParams", "DockerSettings", "DockerSpec"]
