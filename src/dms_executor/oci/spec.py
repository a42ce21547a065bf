"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..images.hosts import RegistryHost
from ..images.limits import ImageLimits
from ..images.params import ImageParams, as_params, converted, set_params
from ..types import SpecConfig
from .flavours import Platform

__all__ = ["ROOM", "OciParams", "OciSettings", "OciSpec", "checked_params", "checked_settings"]


ROOM = "/run/dms-executor"  # where root's shims mount their tmpfs


class OciParams(ImageParams, frozen=True, kw_only=True):
    """`engine_spec.params`, as every engine takes them that runs images.

    `image`: a registry's ("alpine:3.20"), `rootfs:DIR`, `oci:DIR[:TAG]`, `oci-archive:FILE` or `docker-archive:FILE`.
    """


class OciSpec(OciParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `OciSpec(image="rootfs:/srv/root", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        return SpecConfig(type="oci", params=set_params(self, OciParams))


class OciSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["oci"]`.

    `runtime`: "crun", "runc", "runsc", an absolute path, or None for the first that is installed. `platform`: how
    runsc reaches the processor (https://gvisor.dev/docs/architecture_guide/platforms/); None: its own choice.
    `cgroup_parent`: the cgroup of all jobs. `seccomp`: a profile in the form of containers-common; None: that package's
    own. `room`: an existing or creatable folder on which each shim mounts its private tmpfs; None:
    `/run/dms-executor`, of an ordinary user the one in `XDG_RUNTIME_DIR`, else in the state folder.
    `network_program`: what gives the network `user`: "pasta", "slirp4netns", an absolute path, or None for the first
    that is installed. `userns`: whether each job has a user namespace with a range of ids of its own: wherever it can,
    always or never (docs/decisions.md). `cdi_folders`: where CDI specs lie, the last counts most. `cdi_hooks`: what to
    do with a device whose spec has programs run on the host as root: refuse it, give it without them, or run them
    (docs/devices.md). `registries`: how a registry is spoken to, by its host and port (docs/images.md). `auth_file`:
    where the credentials of registries are; None: in the usual places of this user. `image_limits`: most that an image
    may hold.
    """

    runtime: str | None = None
    cgroup_parent: str = "dms-executor"
    seccomp: str | None = None
    room: str | None = None
    network_program: str | None = None
    userns: Literal["auto", "required", "off"] = "auto"
    platform: Platform | None = None
    umoci: str | None = None
    skopeo: str | None = None
    registries: dict[str, RegistryHost] = {}
    auth_file: str | None = None
    image_limits: ImageLimits = ImageLimits()
    cdi_folders: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    cdi_hooks: Literal["refuse", "skip", "run"] = "refuse"


def checked_params(params: dict[str, Any]) -> OciParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    return as_params(OciParams, params)


def checked_settings(settings: Any) -> OciSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, OciSettings):
        return settings
    checked = converted(OciSettings, settings or {}, "$.engines.oci")
    parts = checked.cgroup_parent.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise InvalidRequest(
            f"{checked.cgroup_parent!r} is no cgroup", path="$.engines.oci.cgroup_parent", mend="E.g. 'dms-executor'"
        )
    return checked
