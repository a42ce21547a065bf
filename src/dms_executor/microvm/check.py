"""Validation: what this engine lacks, and what the policy does not allow."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..images import Reference, parse_reference
from ..images.asked import check_platform_of, grant_image
from ..images.params import PARAMS, ImageParams
from ..limits import Limits, check_least, limits_of
from ..policy import Grant, Policy
from ..scripts import check_scripts
from ..types import ExecutionRequest
from ..volumes import check_volumes, verify_volumes
from .drives import MOST
from .settings import VmSettings

__all__ = ["check_paths", "check_request", "guest_limits"]

_ENFORCED = ("cpu", "memory", "pids", "disk")
_LEAST_MEMORY = 4 << 20


def check_request(request: ExecutionRequest, params: ImageParams, policy: Policy, engine: str) -> Reference:
    """What can be judged without looking at the host. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    reference = parse_reference(params.image, engine)
    if not reference.is_local:
        policy.check_registry(reference.registry, field=f"{PARAMS}.image")
    check_platform_of(params.platform, engine)
    if request.network not in ("none", "user"):
        raise _lacking(engine, f"network {request.network!r}", "Use 'none' or 'user', or the engine oci")
    policy.check_network(request.network)
    for field, named in (
        ("$.devices", request.devices),
        ("$.resources.gpus", request.resources.gpus),
    ):
        if named:
            raise _lacking(engine, field, "Leave it out, or use the engine oci")
    for index, port in enumerate(request.ports):
        if ":" in port.host_ip:
            raise _lacking(engine, f"$.ports[{index}].host_ip of IPv6", "Give an address of IPv4, e.g. 127.0.0.1")
    check_scripts(request)
    if not request.init:
        raise _lacking(engine, "$.init", "Leave init out")
    memory = request.resources.memory
    if memory is not None and memory < _LEAST_MEMORY:
        raise InvalidRequest(f"{memory} is too little to run", path="$.resources.memory", mend="At least 4MiB")
    check_least(request)
    check_volumes(request, engine)
    _check_mounts(request)
    return reference


def check_paths(
    request: ExecutionRequest, reference: Reference, policy: Policy, refused: Sequence[Path], engine: str
) -> Grant | None:
    """Opens every host path that the request names; gives the image's grant. Makes nothing. Blocks."""
    grant = grant_image(reference, policy, refused)
    verify_volumes(request, policy, refused)
    for index, volume in enumerate(request.inputs):
        if volume.type == "bind" and volume.read_only is False:
            field = f"$.inputs[{index}]"
            with policy.open(volume.source or "", write=True, field=f"{field}.source", refused=refused) as granted:
                if not granted.is_dir and not stat.S_ISREG(os.fstat(granted.fd).st_mode):
                    raise _lacking(
                        engine, f"{field}.read_only of what is neither file nor folder", "Leave it read-only"
                    )
    return grant


def guest_limits(
    request: ExecutionRequest, settings: VmSettings, policy: Policy, engine: str
) -> tuple[Limits, list[str]]:
    """All of them are the guest's own kernel's to enforce, within the memory and the cores that the VM has."""
    return limits_of(
        request, policy, engine=engine, memory=2 * settings.memory << 20, enforced=_ENFORCED, reason=_no_reason
    )


def _no_reason(limit: str) -> tuple[str, str]:
    return f"no {limit} of a guest's", "Leave it out"


def _check_mounts(request: ExecutionRequest) -> None:
    mounts = len(request.inputs) + len(request.outputs)
    if mounts > MOST:
        raise InvalidRequest(f"{mounts} inputs and outputs", path="$.inputs", mend=f"At most {MOST} together")


def _lacking(engine: str, field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {engine} does not have {field} yet", engine=engine, what=field, mend=mend)
