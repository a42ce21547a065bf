"""Validation: what this engine lacks, what this host cannot enforce, and what the policy does not allow."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..images import Reference, host_architecture, parse_reference
from ..policy import Grant, Policy
from ..types import ExecutionRequest
from ..volumes import check_volumes, verify_volumes
from .flavours import Flavour
from .host import Host
from .plan import Limits
from .provision import check_scripts
from .spec import OciParams, checked_params

__all__ = [
    "DEFAULT_PIDS",
    "check_paths",
    "check_power",
    "check_request",
    "check_runtime",
    "grant_image",
    "limits_of",
    "loosened_by",
]

ENGINE = "oci"
DEFAULT_PIDS = 4096
_LEAST_CPU = 0.01  # a quota of 1 ms, the kernel's smallest
_LEAST_DISK = 1 << 20
_IMAGE = "$.engine_spec.params.image"


def check_request(request: ExecutionRequest, policy: Policy) -> tuple[OciParams, Reference]:
    """What can be judged without looking at the host. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    params = checked_params(request.engine_spec.params)
    reference = parse_reference(params.image, ENGINE)
    _check_platform(params)
    if request.network not in ("none", "user", "host"):
        raise _lacking("$.network", "Use 'none', 'user' or 'host'")
    policy.check_network(request.network)
    check_scripts(request)
    _check_terminal(request)
    _check_least(request)
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


def check_paths(request: ExecutionRequest, reference: Reference, policy: Policy, refused: Sequence[Path]) -> Grant:
    """Opens every host path that the request names; gives the image's grant. Makes nothing. Blocks."""
    grant = grant_image(reference, policy, refused)
    verify_volumes(request, policy, refused)
    return grant


def grant_image(reference: Reference, policy: Policy, refused: Sequence[Path]) -> Grant:
    """The folder or file of the image. Raises `InvalidRequest`, `PolicyDenied`. Blocks."""
    with policy.open(reference.path, field=_IMAGE, refused=refused) as granted:
        archive = reference.transport.endswith("-archive")
        if granted.is_dir == archive:
            wanted = "file" if archive else "folder"
            raise InvalidRequest(f"{reference.path!r} is no {wanted}", path=_IMAGE, mend=f"Name a {wanted}")
        if archive and not stat.S_ISREG(os.fstat(granted.fd).st_mode):
            raise InvalidRequest(f"{reference.path!r} is no regular file", path=_IMAGE, mend="Name an archive")
        return granted.grant


def limits_of(request: ExecutionRequest, host: Host, policy: Policy) -> tuple[Limits, list[str]]:
    """The limits that are set, and the names of those that go unenforced. Raises `NotSupported`."""
    resources = request.resources
    named = {"cpu": resources.cpu, "memory": resources.memory, "pids": resources.pids, "disk": resources.disk}
    defaults: dict[str, float] = {"memory": host.memory // 2, "pids": DEFAULT_PIDS}
    chosen: dict[str, float | None] = {}
    unenforced = []
    for limit, value in named.items():
        wanted = value if value is not None else defaults.get(limit)
        chosen[limit] = wanted
        if wanted is None or limit in host.limits:
            continue
        _may_go_unenforced(limit, value is not None, host, policy)
        unenforced.append(limit)
        chosen[limit] = None
    cpu, memory, pids, disk = (chosen[limit] for limit in ("cpu", "memory", "pids", "disk"))
    limits = Limits(
        cpu=cpu,
        memory=int(memory) if memory is not None else None,
        pids=int(pids) if pids is not None else None,
        disk=int(disk) if disk is not None else None,
    )
    return limits, unenforced


def loosened_by(request: ExecutionRequest) -> list[str]:
    """What a request has beyond the defaults, for `inspect`."""
    found = [f"network: {request.network}"] if request.network != "none" else []
    for index, volume in enumerate(request.inputs):
        if volume.read_only is False and volume.type == "bind":
            found.append(f"inputs[{index}]: writable")
    return found


def _may_go_unenforced(limit: str, is_named: bool, host: Host, policy: Policy) -> None:
    if limit in policy.unenforced or (not is_named and policy.missing_defaults == "record"):
        return
    field = f"$.resources.{limit}"
    what = "it is named" if is_named else "its default is set for every job"
    why = f"cgroups here: {host.cgroups.mode}, without a usable controller {limit}"
    mend = host.unlimited.rstrip(".") or "Enable the controller"
    if limit == "disk":
        why = "no loop device or no mke2fs" if host.rootless is None else "a loop device takes root"
        mend = "Install e2fsprogs" if host.rootless is None else "Run it as root"
    raise NotSupported(
        f"engine {ENGINE} cannot enforce {field} on this host ({why}), and {what}",
        engine=ENGINE,
        what=field,
        mend=f"{mend}, or open the executor with Policy(unenforced=({limit!r},))",
    )


def _check_platform(params: OciParams) -> None:
    host = f"linux/{host_architecture()}"
    if params.platform not in (None, host):
        raise _lacking("$.engine_spec.params.platform", f"This host is {host}: leave platform out")


def _check_terminal(request: ExecutionRequest) -> None:
    if request.tty and not request.init:
        raise InvalidRequest(
            "a job's terminal is made by the executor's own init", path="$.tty", mend="Leave init out, or tty"
        )


def _check_least(request: ExecutionRequest) -> None:
    resources = request.resources
    for field, value, least, text in (
        ("cpu", resources.cpu, _LEAST_CPU, "0.01"),
        ("disk", resources.disk, _LEAST_DISK, "1MiB"),
    ):
        if value is not None and value < least:
            raise InvalidRequest(f"{value} is too little to run", path=f"$.resources.{field}", mend=f"At least {text}")


def _lacking(field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {ENGINE} does not have {field} yet", engine=ENGINE, what=field, mend=mend)


def _lacking_with(flavour: Flavour, field: str, mend: str) -> NotSupported:
    return NotSupported(
        f"engine {ENGINE} with the runtime {flavour.name} does not have this {field}",
        engine=ENGINE,
        what=field,
        mend=f"{mend}, or choose another runtime by the engine's setting `runtime`",
    )
