"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..images.params import PARAMS, ImageParams, as_params, converted, set_params
from ..types import ByteSize, SpecConfig

__all__ = ["DockerParams", "DockerSettings", "DockerSpec", "checked_params", "checked_settings"]


class DockerParams(ImageParams, frozen=True, kw_only=True):
    """`engine_spec.params`, as every engine takes them that runs images.

    `image`: a name that the daemon knows or pulls. `shm_size`: bytes of `/dev/shm`; None: the daemon's default.
    """

    shm_size: ByteSize | None = None


class DockerSpec(DockerParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `DockerSpec(image="alpine:3.20", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        return SpecConfig(type="docker", params=set_params(self, DockerParams))


class DockerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["docker"]`.

    `socket`: the daemon's, an absolute path; None: as Docker's own client finds it (`DOCKER_HOST`, the current context,
    `/var/run/docker.sock`). `auth_file`: where the credentials of registries are; None: in the usual places of this
    user (docs/images.md). `cdi_folders`: where CDI specs lie, the last counts most. `cdi_hooks`: what to do with a
    device whose spec has programs run on the host as root, which a daemon does not do: refuse it, or give it without.
    """

    socket: str | None = None
    auth_file: str | None = None
    cdi_folders: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    cdi_hooks: Literal["refuse", "skip"] = "refuse"


def checked_params(params: dict[str, Any]) -> DockerParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    checked = as_params(DockerParams, params)
    if checked.shm_size is not None and checked.shm_size <= 0:
        raise InvalidRequest(f"{checked.shm_size} is no size", path=f"{PARAMS}.shm_size", mend="Use a size above 0")
    return checked


def checked_settings(settings: Any, kind: type[DockerSettings], engine: str) -> DockerSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, DockerSettings):
        return settings
    checked = converted(kind, settings or {}, f"$.engines.{engine}")
    if checked.socket is not None and not checked.socket.startswith("/"):
        raise InvalidRequest(
            f"{checked.socket!r} is no absolute path", path=f"$.engines.{engine}.socket", mend="E.g. /run/docker.sock"
        )
    return checked
