"""Validation: what this engine lacks, what a cluster cannot enforce, and what the policy does not allow."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..devices.allowed import check_allowed
from ..errors import InvalidRequest, NotSupported
from ..images import parse_reference
from ..images.params import PARAMS
from ..limits import Limits, check_least, limits_of
from ..policy import Limit, Policy
from ..scripts import check_scripts
from ..types import ExecutionRequest
from ..volumes import check_volumes, verify_volumes
from .handed import MOST, check_handed
from .spec import KubernetesParams, KubernetesSettings, checked_params

__all__ = ["ENFORCED", "check_paths", "check_request", "limits_and_gaps"]

ENFORCED = frozenset({"cpu", "memory"})
_ENGINE = "kubernetes"
# https://pkg.go.dev/github.com/distribution/reference
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_LOCAL = ("rootfs", "oci", "oci-archive", "docker-archive")
_USER = re.compile(r"[0-9]+(:[0-9]+)?")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, RFC 1123
_LEAST_MEMORY = 6 << 20


def check_request(request: ExecutionRequest, policy: Policy, settings: KubernetesSettings) -> KubernetesParams:
    """What can be judged without the cluster. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    params = checked_params(request.engine_spec.params)
    check_scripts(request)
    for field, present, mend in (
        ("$.init", not request.init, "Leave init out: it is what reports the job's start and end"),
        ("$.ports", request.ports, "Leave ports out"),
    ):
        if present:
            raise _lacking(field, mend)
    _check_params(params, policy)
    _check_network(request, policy, settings)
    _check_gpus(request, policy, settings)
    check_volumes(request, _ENGINE, named=True)
    check_handed(request)
    check_least(request)
    memory = request.resources.memory
    if memory is not None and memory < _LEAST_MEMORY:
        raise InvalidRequest(f"{memory} is too little to run", path="$.resources.memory", mend="At least 6MiB")
    return params


def check_paths(request: ExecutionRequest, policy: Policy, refused: Sequence[Path]) -> None:
    """Opens every host path that the request names, and makes nothing. Blocks.

    Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`.
    """
    verify_volumes(request, policy, refused)
    for index, volume in enumerate(request.inputs):
        if volume.type != "bind" or volume.read_only is not False:
            continue
        field = f"$.inputs[{index}]"
        with policy.open(volume.source or "", write=True, field=f"{field}.source", refused=refused) as granted:
            if not granted.is_dir:
                raise _lacking(f"{field}.read_only", "Give the folder that the file is in")
    if request.stdin_file is not None:
        with policy.open(request.stdin_file, field="$.stdin_file", refused=refused) as granted:
            size = os.fstat(granted.fd).st_size
        if size > MOST:
            raise InvalidRequest(
                f"{request.stdin_file!r} has {size} bytes, more than {MOST}",
                path="$.stdin_file",
                mend="Give it as an input",
            )


def limits_and_gaps(
    request: ExecutionRequest, policy: Policy, settings: KubernetesSettings
) -> tuple[Limits, list[str]]:
    """The limits that are set, and the names of what goes unenforced. Raises `NotSupported`."""

    def reason(limit: Limit) -> tuple[str, str]:
        if limit == "pids":
            return "a pod has no limit of its own, only its node has (podPidsLimit)", "Leave pids out"
        return "a cluster looks at it now and then, and evicts", "Leave disk out"

    limits, unenforced = limits_of(
        request, policy, engine=_ENGINE, memory=2 * settings.memory, enforced=ENFORCED, reason=reason
    )
    if request.network == "none" and not settings.network_policies:
        unenforced.append("network")
    return limits, unenforced


def _check_params(params: KubernetesParams, policy: Policy) -> None:
    field = f"{PARAMS}.image"
    transport, separator, _ = params.image.partition(":")
    if separator and transport in _LOCAL:
        raise NotSupported(
            f"engine {_ENGINE} takes no image from {transport} ({field}: {params.image!r})",
            engine=_ENGINE,
            what=field,
            mend="Push it to a registry that the nodes pull from",
        )
    if not _IMAGE.fullmatch(params.image) or ".." in params.image:
        raise InvalidRequest(f"{params.image!r} is no image's name", path=field, mend="E.g. 'alpine:3.20'")
    policy.check_registry(parse_reference(params.image, _ENGINE).registry, field=field)
    if not params.entrypoint and not params.cmd:
        raise NotSupported(
            f"engine {_ENGINE} is not told an image's own command",
            engine=_ENGINE,
            what=f"{PARAMS}.cmd",
            mend="Give entrypoint or cmd",
        )
    if params.user is not None and not _USER.fullmatch(params.user):
        raise NotSupported(
            f"engine {_ENGINE} takes users by number ({PARAMS}.user: {params.user!r})",
            engine=_ENGINE,
            what=f"{PARAMS}.user",
            mend="E.g. '1000' or '1000:1000'",
        )
    if params.hostname is not None and not _HOSTNAME.fullmatch(params.hostname):
        raise NotSupported(
            f"a pod's hostname is a DNS label ({PARAMS}.hostname: {params.hostname!r})",
            engine=_ENGINE,
            what=f"{PARAMS}.hostname",
            mend="Lower case letters, digits and '-', at most 63",
        )


def _check_gpus(request: ExecutionRequest, policy: Policy, settings: KubernetesSettings) -> None:
    for index, gpu in enumerate(request.resources.gpus):
        field = f"$.resources.gpus[{index}]"
        if gpu.vendor not in settings.gpus:
            raise NotSupported(
                f"engine {_ENGINE} is not told of GPUs of {gpu.vendor} in this cluster ({field})",
                engine=_ENGINE,
                what="$.resources.gpus",
                mend="Name their device plug-in's resource in its settings, e.g. gpus={'nvidia': 'nvidia.com/gpu'}",
            )
        if (gpu.index, gpu.name, gpu.pci_address) != (None, None, None):
            raise NotSupported(
                f"a cluster's device plug-in chooses which GPU a pod gets ({field})",
                engine=_ENGINE,
                what=field,
                mend="Name the vendor alone, and the kind by node_selector",
            )
        check_allowed(policy, f"{gpu.vendor}.com/gpu=all", field=field)


def _check_network(request: ExecutionRequest, policy: Policy, settings: KubernetesSettings) -> None:
    """A pod is in the cluster's network; only a NetworkPolicy that the cluster enforces keeps it from using that."""
    if request.network not in ("none", "cluster"):
        raise _lacking("$.network", "Use 'none', or 'cluster': the network of the cluster's pods")
    policy.check_network(request.network)
    if request.network == "none" and not settings.network_policies and policy.missing_defaults != "record":
        raise NotSupported(
            f"engine {_ENGINE} does not know that this cluster can cut a pod off its network ($.network: 'none')",
            engine=_ENGINE,
            what="$.network",
            mend="Set network_policies in the engine's settings where it enforces them, or ask for network 'cluster'",
        )


def _lacking(field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {_ENGINE} does not have {field} yet", engine=_ENGINE, what=field, mend=mend)
