"""Validation: what this engine lacks, what the daemon cannot enforce, and what the policy does not allow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..images import parse_reference
from ..images.params import PARAMS
from ..limits import Limits, check_least, limits_of
from ..policy import Policy
from ..scripts import check_scripts
from ..types import ExecutionRequest
from ..volumes import check_volumes
from .daemon import Daemon
from .dialect import UNSAFE, Dialect
from .spec import DockerParams, checked_params

__all__ = ["check_request", "daemon_limits"]

# https://pkg.go.dev/github.com/distribution/reference: what is not of this form never reaches the daemon's paths.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_LOCAL = ("rootfs", "oci", "oci-archive", "docker-archive")
_LEAST_MEMORY = 6 << 20  # the daemon's own: https://docs.docker.com/engine/containers/resource_constraints/


def check_request(request: ExecutionRequest, policy: Policy, dialect: Dialect) -> DockerParams:
    """What can be judged without the daemon. Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`."""
    params = checked_params(request.engine_spec.params)
    _check_image(params.image, policy, dialect.engine)
    for field, present, mend in (
        ("$.stdin", request.stdin and not request.init, "Leave init out: it is what hands the input over"),
        ("$.stdin_file", request.stdin_file and not request.init, "Leave init out: it is what hands the input over"),
        ("$.stdin_open", request.stdin_open and not request.init, "Leave init out: it is what hands the input over"),
    ):
        if present:
            raise _lacking(dialect.engine, field, mend)
    if request.network == "user" or request.network.startswith("container:"):
        raise _lacking(
            dialect.engine, "$.network", "Use 'none', 'bridge', 'host' or the name of a network of the daemon's"
        )
    if request.tty and not request.init:
        raise InvalidRequest(
            "a job's terminal is made by the executor's own init", path="$.tty", mend="Leave init out, or tty"
        )
    policy.check_network(request.network)
    check_scripts(request)
    check_least(request)
    memory = request.resources.memory
    if memory is not None and memory < _LEAST_MEMORY:
        raise InvalidRequest(f"{memory} is too little to run", path="$.resources.memory", mend="At least 6MiB")
    check_volumes(request, dialect.engine, named=True)
    if dialect.mounts_as_text:
        _check_texts(request, dialect)
    return params


def daemon_limits(request: ExecutionRequest, daemon: Daemon, policy: Policy, engine: str) -> tuple[Limits, list[str]]:
    """The limits that are set, and the names of those that go unenforced. Raises `NotSupported`."""

    def reason(limit: str) -> tuple[str, str]:
        if limit == "disk":
            mend = "Leave disk out, or have the daemon's data on btrfs, zfs, or xfs mounted with pquota"
            return f"its storage driver {daemon.storage} holds no size there", mend
        return f"the daemon has no {limit} limit", "Enable the control group's controller"

    return limits_of(request, policy, engine=engine, memory=daemon.memory, enforced=daemon.limits, reason=reason)


def refused_sources(state_dir: Path, socket: str) -> Sequence[Path]:
    """What no request may name: the state folder, and the daemon's socket with the folder that shows it."""
    return (state_dir, Path(socket))


def _check_texts(request: ExecutionRequest, dialect: Dialect) -> None:
    """A comma in a path would begin another option of its mount, a colon one of its volume. Raises `NotSupported`."""
    for kind, volumes in (("inputs", request.inputs), ("outputs", request.outputs)):
        for number, volume in enumerate(volumes):
            signs = (*UNSAFE, ":") if volume.type == "volume" else UNSAFE
            for field, path in (("source", volume.source), ("target", volume.target)):
                _check_text(path, f"$.{kind}[{number}].{field}", dialect, signs)
    _check_text(request.results_dir, "$.results_dir", dialect)
    _check_text(request.stdin_file, "$.stdin_file", dialect)


def _check_text(path: str | None, field: str, dialect: Dialect, signs: Sequence[str] = UNSAFE) -> None:
    found = next((sign for sign in signs if path is not None and sign in path), None)
    if found is not None:
        raise NotSupported(
            f"engine {dialect.engine} takes no path with {found!r} there ({field}: {path!r})",
            engine=dialect.engine,
            what=field,
            mend="Use a path without it",
        )


def _check_image(image: str, policy: Policy, engine: str) -> None:
    field = f"{PARAMS}.image"
    transport, separator, _ = image.partition(":")
    if separator and transport in _LOCAL:
        raise NotSupported(
            f"engine {engine} takes no image from {transport} ({field}: {image!r})",
            engine=engine,
            what=field,
            mend="Give it to the daemon by `docker load` or `docker import`, and use its name",
        )
    if not _IMAGE.fullmatch(image) or ".." in image:
        raise InvalidRequest(f"{image!r} is no image's name", path=field, mend="E.g. 'alpine:3.20'")
    policy.check_registry(parse_reference(image, engine).registry, field=field)


def _lacking(engine: str, field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {engine} does not have {field} yet", engine=engine, what=field, mend=mend)
