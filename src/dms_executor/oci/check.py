"""Validation: what this engine lacks, what this host cannot enforce, and what the policy does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..images import Reference, parse_reference
from ..images.asked import check_platform_of, grant_image
from ..limits import Limits, check_least, limits_of
from ..policy import Grant, Policy
from ..scripts import check_scripts
from ..types import ExecutionRequest
from ..volumes import check_volumes, verify_volumes
from .flavours import Flavour
from .host import Host
from .spec import OciParams, checked_params

__all__ = [
    "ENGINE",
    "check_paths",
    "check_power",
    "check_request",
    "check_runtime",
    "host_limits",
    "why_unlimited",
]

ENGINE = "oci"
_IMAGE = "$.engine_spec.params.image"


def check_request(request: ExecutionRequest, policy: Policy) -> tuple[OciParams, Reference]:
    """What can be judged without looking at the host. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    params = checked_params(request.engine_spec.params)
    reference = parse_reference(params.image, ENGINE)
    if not reference.is_local:
        policy.check_registry(reference.registry, field=_IMAGE)
    check_platform_of(params.platform, ENGINE)
    if request.network not in ("none", "user", "host"):
        raise _lacking("$.network", "Use 'none', 'user' or 'host'")
    policy.check_network(request.network)
    check_scripts(request)
    _check_terminal(request)
    check_least(request)
    check_volumes(request, ENGINE)
    return params, reference


def check_runtime(request: ExecutionRequest, flavour: Flavour) -> None:
    """What this runtime lacks. Raises `InvalidRequest`, `NotSupported`."""
    if request.network not in flavour.networks:
        allowed = " or ".join(map(repr, sorted(flavour.networks)))
        raise _lacking_with(flavour, "$.network", f"Use {allowed}")
    if flavour.needs_init and not request.init:
        raise _lacking_with(flavour, "$.init", "Leave init out")
    for power, field, named in (
        ("devices", "$.devices", request.devices),
        ("gpus", "$.resources.gpus", request.resources.gpus),
        ("attach", "$.stdin_open", request.stdin_open),
        ("tty", "$.tty", request.tty),
    ):
        if named and power in flavour.lacks:
            raise _lacking_with(flavour, field, f"Leave {power} out")
    memory = request.resources.memory
    if memory is not None and memory < flavour.least_memory:
        raise InvalidRequest(
            f"{memory} is too little to run",
            path="$.resources.memory",
            mend=f"At least {flavour.least_memory >> 20}MiB with the runtime {flavour.name}",
        )


def check_power(power: str, flavour: Flavour, execution_id: str) -> None:
    """Raises `NotSupported` where jobs of this runtime cannot be asked for it."""
    if power in flavour.lacks:
        raise NotSupported(
            f"engine {ENGINE} with the runtime {flavour.name} cannot do it: {power}",
            engine=ENGINE,
            what=power,
            mend="Choose another runtime by the engine's setting `runtime`",
            execution_id=execution_id,
        )


def check_paths(
    request: ExecutionRequest, reference: Reference, policy: Policy, refused: Sequence[Path]
) -> Grant | None:
    """Opens every host path that the request names; gives the image's grant. Makes nothing. Blocks."""
    grant = grant_image(reference, policy, refused)
    verify_volumes(request, policy, refused)
    return grant


def host_limits(request: ExecutionRequest, host: Host, policy: Policy) -> tuple[Limits, list[str]]:
    """The limits that are set, and the names of those that go unenforced. Raises `NotSupported`."""

    def reason(limit: str) -> tuple[str, str]:
        return why_unlimited(limit, host)

    return limits_of(request, policy, engine=ENGINE, memory=host.memory, enforced=host.limits, reason=reason)


def why_unlimited(limit: str, host: Host) -> tuple[str, str]:
    """Why a limit that is not among the host's cannot be enforced, and how that is mended."""
    if limit == "disk":
        if host.rootless is None:
            return "no loop device or no mke2fs", "Install e2fsprogs; without /dev/loop-control: modprobe loop"
        return "a loop device takes root", "Run it as root"
    why = f"cgroups here: {host.cgroups.mode}, without a usable controller {limit}"
    enable = f"Enable the controller: by cgroup_enable={limit} for the kernel, or for the cgroup that we are in"
    return why, host.unlimited.rstrip(".") or enable


def _check_terminal(request: ExecutionRequest) -> None:
    if request.tty and not request.init:
        raise InvalidRequest(
            "a job's terminal is made by the executor's own init", path="$.tty", mend="Leave init out, or tty"
        )


def _lacking(field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {ENGINE} does not have {field} yet", engine=ENGINE, what=field, mend=mend)


def _lacking_with(flavour: Flavour, field: str, mend: str) -> NotSupported:
    return NotSupported(
        f"engine {ENGINE} with the runtime {flavour.name} does not have this {field}",
        engine=ENGINE,
        what=field,
        mend=f"{mend}, or choose another runtime by the engine's setting `runtime`",
    )
