"""The `podman` engine: the same code over Podman's compatible socket.

What it does otherwise than Docker's daemon stands in `dialect.py`. Podman keeps no process for its containers: the
service may end and come again while jobs run; each has a conmon of its own, which writes its log.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ..images.params import set_params
from ..types import SpecConfig
from .dialect import PODMAN, Dialect
from .engine import DockerEngine
from .spec import DockerParams, DockerSettings

__all__ = ["PodmanEngine", "PodmanParams", "PodmanSettings", "PodmanSpec"]


class PodmanParams(DockerParams, frozen=True, kw_only=True):
    """`engine_spec.params`: those of the engine docker."""


class PodmanSpec(PodmanParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `PodmanSpec(image="alpine:3.20", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        return SpecConfig(type="podman", params=set_params(self, PodmanParams))


class PodmanSettings(DockerSettings, frozen=True, kw_only=True):
    """`Settings.engines["podman"]`.

    `socket`: the service's, an absolute path; None: as Podman's own client finds it (`CONTAINER_HOST`,
    `$XDG_RUNTIME_DIR/podman/podman.sock`, `/run/podman/podman.sock`).
    """


class PodmanEngine(DockerEngine):
    """See the module and `DockerEngine`."""

    name: ClassVar[str] = "podman"
    rank: ClassVar[int] = 25
    params: ClassVar[type[msgspec.Struct]] = PodmanParams
    settings: ClassVar[type[DockerSettings]] = PodmanSettings
    dialect: ClassVar[Dialect] = PODMAN
