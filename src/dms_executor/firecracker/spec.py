"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequest
from ..images.params import PARAMS, ImageParams, as_params, converted
from ..microvm.settings import Rate, VmSettings, check_rate, check_settings
from ..types import SpecConfig
from .config import boot_args

__all__ = ["FirecrackerParams", "FirecrackerSettings", "FirecrackerSpec", "checked_params", "checked_settings"]

_OF_RAW = ("initrd_path", "root_file_system", "mmds_message")
_OF_IMAGES = ("entrypoint", "cmd", "environment", "working_directory", "user", "hostname", "pull", "platform")


class FirecrackerParams(ImageParams, frozen=True, kw_only=True):
    """`engine_spec.params`: an `image` as on every engine that runs images, or a machine of the user's own.

    `image`: a registry's ("alpine:3.20"), `rootfs:DIR`, `oci:DIR[:TAG]`, `oci-archive:FILE` or `docker-archive:FILE`.
    `kernel_image`: the guest's kernel, a vmlinuz or vmlinux; with an image it may be left out. `kernel_args`: more
    words for its command line. Without an image: `root_file_system`, an ext4 or other image that the kernel mounts, of
    which the machine has a copy of its own (`read_only_root`: it cannot write to that); `initrd_path`; `mmds_message`,
    what the guest may ask the metadata service for.
    """

    image: str = ""
    kernel_image: str | None = None
    kernel_args: str | None = None
    initrd_path: str | None = None
    root_file_system: str | None = None
    mmds_message: dict[str, Any] | None = None

    @property
    def is_raw(self) -> bool:
        """A machine of the user's own, without our agent."""
        return not self.image


class FirecrackerSpec(FirecrackerParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `FirecrackerSpec(image="alpine:3.20", cmd=["true"]).build()`, or
    `FirecrackerSpec(kernel_image="/boot/vmlinuz", root_file_system="/srv/root.ext4").build()`.
    """

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        plain = FirecrackerParams()
        named = {name: getattr(self, name) for name in FirecrackerParams.__struct_fields__}
        params = {name: value for name, value in named.items() if value != getattr(plain, name)}
        checked_params(params)
        return SpecConfig(type="firecracker", params=params)


class FirecrackerSettings(VmSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["firecracker"]`. What all engines of microVMs have: `VmSettings`.

    `program`, `jailer`: names or absolute paths. `jailed`: False lets Firecracker run without its jailer, as a user of
    the VM's own all the same. `kernel_args`: more words for the command line of every guest. `network_rate`: of a
    guest's network, in each direction.
    """

    program: str = "firecracker"
    jailer: str = "jailer"
    jailed: bool = True
    kernel_args: str = ""
    network_rate: Rate = Rate()


def checked_params(params: dict[str, Any]) -> FirecrackerParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    checked = converted(FirecrackerParams, params, PARAMS)
    boot_args(given=checked.kernel_args)
    if not checked.is_raw:
        for name in _OF_RAW:
            if getattr(checked, name) is not None:
                raise InvalidRequest(
                    f"{name} is for a machine of your own, and there is an image",
                    path=f"{PARAMS}.{name}",
                    mend=f"Leave out {name}, or the image",
                )
        return as_params(FirecrackerParams, params)
    for name in _OF_IMAGES:
        if name in params:
            raise InvalidRequest(
                f"{name} is for an image, and there is none",
                path=f"{PARAMS}.{name}",
                mend=f"Name an image, or leave out {name}",
            )
    if checked.kernel_image is None or not (checked.root_file_system or checked.initrd_path):
        raise InvalidRequest(
            "neither an image nor a machine of your own",
            path=f"{PARAMS}.image",
            mend="Name an image, or kernel_image with root_file_system or initrd_path",
        )
    for name in ("kernel_image", "initrd_path", "root_file_system"):
        path = getattr(checked, name)
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise InvalidRequest(f"{path!r} is not absolute", path=f"{PARAMS}.{name}", mend="E.g. '/srv/vm/file'")
    return checked


def checked_settings(settings: Any) -> FirecrackerSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, FirecrackerSettings):
        return settings
    checked = converted(FirecrackerSettings, settings or {}, "$.engines.firecracker")
    check_settings(checked, "firecracker")
    check_rate(checked.network_rate, "$.engines.firecracker.network_rate")
    return checked
