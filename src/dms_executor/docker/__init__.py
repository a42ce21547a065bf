"""The engines `docker` and `podman`: containers by a daemon that serves the Docker Engine API."""

from .engine import DockerEngine
from .podman import PodmanEngine, PodmanParams, PodmanSettings, PodmanSpec
from .spec import DockerParams, DockerSettings, DockerSpec

__all__ = [
    "DockerEngine",
    "DockerParams",
    "DockerSettings",
    "DockerSpec",
    "PodmanEngine",
    "PodmanParams",
    "PodmanSettings",
    "PodmanSpec",
]
