"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..images.hosts import RegistryHost
from ..images.limits import ImageLimits
from ..images.params import ImageParams, as_params, converted, set_params
from ..types import SpecConfig

__all__ = ["QemuParams", "QemuSettings", "QemuSpec", "checked_params", "checked_settings"]


class QemuParams(ImageParams, frozen=True, kw_only=True):
    """`engine_spec.params`, as every engine takes them that runs images.

    `image`: a registry's ("alpine:3.20"), `rootfs:DIR`, `oci:DIR[:TAG]`, `oci-archive:FILE` or `docker-archive:FILE`.
    """


class QemuSpec(QemuParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `QemuSpec(image="alpine:3.20", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        return SpecConfig(type="qemu", params=set_params(self, QemuParams))


class QemuSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["qemu"]`.

    `program`: QEMU's name or absolute path; None: the one for this machine's architecture. `accelerator`: "kvm", "tcg"
    (emulation), or None for KVM where it runs a guest. `kernel_image`: the guest's kernel; None: what the environment
    names by DMS_EXECUTOR_KERNEL_IMAGE, else the newest installed one that suits. `memory`: MiB that a job has where its
    request names none. `cgroup_parent`: the cgroup of all jobs.
    `umoci`, `skopeo`, `registries`, `auth_file`, `image_limits`: as of the engine oci (docs/images.md).
    """

    program: str | None = None
    accelerator: Literal["kvm", "tcg"] | None = None
    kernel_image: str | None = None
    memory: int = 512
    cgroup_parent: str = "dms-executor"
    umoci: str | None = None
    skopeo: str | None = None
    registries: dict[str, RegistryHost] = {}
    auth_file: str | None = None
    image_limits: ImageLimits = ImageLimits()


def checked_params(params: dict[str, Any]) -> QemuParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    return as_params(QemuParams, params)


def checked_settings(settings: Any) -> QemuSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, QemuSettings):
        return settings
    checked = converted(QemuSettings, settings or {}, "$.engines.qemu")
    parts = checked.cgroup_parent.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise InvalidRequest(
            f"{checked.cgroup_parent!r} is no cgroup", path="$.engines.qemu.cgroup_parent", mend="E.g. 'dms-executor'"
        )
    return checked
