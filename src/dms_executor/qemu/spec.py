"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

from typing import Any, Literal

from ..images.params import ImageParams, as_params, converted, set_params
from ..microvm.settings import VmSettings, check_settings
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


class QemuSettings(VmSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["qemu"]`. What all engines of microVMs have: `VmSettings`.

    `program`: QEMU's name or absolute path; None: the one for this machine's architecture. `accelerator`: "kvm", "tcg"
    (emulation), or None for KVM where it runs a guest.
    """

    program: str | None = None
    accelerator: Literal["kvm", "tcg"] | None = None


def checked_params(params: dict[str, Any]) -> QemuParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    return as_params(QemuParams, params)


def checked_settings(settings: Any) -> QemuSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, QemuSettings):
        return settings
    checked = converted(QemuSettings, settings or {}, "$.engines.qemu")
    check_settings(checked, "qemu")
    return checked
