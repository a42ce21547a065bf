"""What the engines of microVMs are all told by the machine's owner."""

from __future__ import annotations

import msgspec

from ..errors import InvalidRequest
from ..images.hosts import RegistryHost
from ..images.limits import ImageLimits
from ..types import ByteSize

__all__ = ["OWN_MEMORY", "Rate", "VmSettings", "check_rate", "check_settings", "vm_memory"]

OWN_MEMORY = 96 << 20  # bytes that the guest's kernel and agent have beside the job: the machine has both
_STEP = 128 << 20


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most so many bytes (`bandwidth`), and so many operations (`ops`), in a second. None: no bound."""

    bandwidth: ByteSize | None = None
    ops: int | None = None


class VmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kernel_image`: the guest's kernel; None: what the environment names by DMS_EXECUTOR_KERNEL_IMAGE, else the
    newest installed one that suits. `memory`: MiB that a job has where its request names none. `cgroup_parent`: the
    cgroup of all jobs. `warm`: guests are clones of one that has booted already, and only the first of each shape
    boots. `warm_folder`: where those lie, for state folders that share them; None: in the state folder. Whoever may
    write to it owns the jobs. `disk_rate`: of each disk that a guest has, so that no job takes the host's for itself.
    `network_program`, `umoci`, `skopeo`, `registries`, `auth_file`, `image_limits`: as of
    the engine oci (docs/images.md).
    """

    kernel_image: str | None = None
    memory: int = 512
    cgroup_parent: str = "dms-executor"
    warm: bool = True
    warm_folder: str | None = None
    disk_rate: Rate = Rate()
    network_program: str | None = None
    umoci: str | None = None
    skopeo: str | None = None
    registries: dict[str, RegistryHost] = {}
    auth_file: str | None = None
    image_limits: ImageLimits = ImageLimits()


def vm_memory(limit: int | None, settings: VmSettings) -> int:
    """The bytes that a guest has for its job: in steps, so that jobs of nearly the same size have guests of the same
    shape. What the job may have of it is the guest's kernel's to say.
    """
    return -(-(limit or settings.memory << 20) // _STEP) * _STEP


def check_settings(settings: VmSettings, engine: str) -> None:
    """What no type says. Raises `InvalidRequest`."""
    parts = settings.cgroup_parent.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise InvalidRequest(
            f"{settings.cgroup_parent!r} is no cgroup",
            path=f"$.engines.{engine}.cgroup_parent",
            mend="E.g. 'dms-executor'",
        )
    check_rate(settings.disk_rate, f"$.engines.{engine}.disk_rate")


def check_rate(rate: Rate, where: str) -> None:
    """Raises `InvalidRequest`: with nothing in a second, nothing would ever end."""
    for name, value in (("bandwidth", rate.bandwidth), ("ops", rate.ops)):
        if value is not None and not 0 < value < 1 << 63:
            raise InvalidRequest(
                f"{name} is {value}", path=f"{where}.{name}", mend="At least 1; leave it out for no bound"
            )
