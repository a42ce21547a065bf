"""Validation: what this engine lacks, and what the policy does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..images import Reference, parse_reference
from ..images.asked import check_platform_of, grant_image
from ..images.params import PARAMS
from ..limits import Limits, check_least, limits_of
from ..microvm.drives import MOST
from ..policy import Grant, Policy
from ..scripts import check_scripts
from ..types import ExecutionRequest
from ..volumes import check_volumes, verify_volumes
from .spec import QemuParams, QemuSettings, checked_params

__all__ = ["ENGINE", "check_paths", "check_request", "guest_limits"]

ENGINE = "qemu"
_ENFORCED = ("cpu", "memory", "pids", "disk")
_LEAST_MEMORY = 4 << 20


def check_request(request: ExecutionRequest, policy: Policy) -> tuple[QemuParams, Reference]:
    """What can be judged without looking at the host. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    params = checked_params(request.engine_spec.params)
    reference = parse_reference(params.image, ENGINE)
    if not reference.is_local:
        policy.check_registry(reference.registry, field=f"{PARAMS}.image")
    check_platform_of(params.platform, ENGINE)
    if request.network != "none":
        raise _lacking("$.network", "Use 'none', or the engine oci")
    policy.check_network(request.network)
    for field, named in (
        ("$.ports", request.ports),
        ("$.devices", request.devices),
        ("$.resources.gpus", request.resources.gpus),
        ("$.tty", request.tty),
    ):
        if named:
            raise _lacking(field, "Leave it out, or use the engine oci")
    check_scripts(request)
    if not request.init:
        raise _lacking("$.init", "Leave init out")
    memory = request.resources.memory
    if memory is not None and memory < _LEAST_MEMORY:
        raise InvalidRequest(f"{memory} is too little to run", path="$.resources.memory", mend="At least 4MiB")
    check_least(request)
    check_volumes(request, ENGINE)
    _check_mounts(request)
    return params, reference


def check_paths(
    request: ExecutionRequest, reference: Reference, policy: Policy, refused: Sequence[Path]
) -> Grant | None:
    """Opens every host path that the request names; gives the image's grant. Makes nothing. Blocks."""
    grant = grant_image(reference, policy, refused)
    verify_volumes(request, policy, refused)
    for index, volume in enumerate(request.inputs):
        if volume.type == "bind" and volume.read_only is False:
            field = f"$.inputs[{index}]"
            with policy.open(volume.source or "", write=True, field=f"{field}.source", refused=refused) as granted:
                if not granted.is_dir:
                    raise _lacking(f"{field}.read_only of a file", "Give the folder that it lies in")
    return grant


def guest_limits(request: ExecutionRequest, settings: QemuSettings, policy: Policy) -> tuple[Limits, list[str]]:
    """All of them are the guest's own kernel's to enforce, within the memory and the cores that the VM has."""
    return limits_of(
        request, policy, engine=ENGINE, memory=2 * settings.memory << 20, enforced=_ENFORCED, reason=_no_reason
    )


def _no_reason(limit: str) -> tuple[str, str]:
    return f"no {limit} of a guest's", "Leave it out"


def _check_mounts(request: ExecutionRequest) -> None:
    mounts = len(request.inputs) + len(request.outputs)
    if mounts > MOST:
        raise InvalidRequest(f"{mounts} inputs and outputs", path="$.inputs", mend=f"At most {MOST} together")


def _lacking(field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {ENGINE} does not have {field} yet", engine=ENGINE, what=field, mend=mend)
