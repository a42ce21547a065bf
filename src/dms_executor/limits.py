"""The limits of a job: what is named, what is the default, and what happens where one cannot be enforced."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from .errors import InvalidRequest, NotSupported
from .policy import Limit, Policy
from .types import ExecutionRequest

__all__ = ["DEFAULT_PIDS", "Limits", "check_least", "limits_of", "loosened_by"]

DEFAULT_PIDS = 4096
_LEAST_CPU = 0.01  # a quota of 1 ms, the kernel's smallest
_LEAST_DISK = 1 << 20

Reason = Callable[[Limit], tuple[str, str]]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the job may use; None: no limit that could be enforced. Sizes in bytes, `cpu` in cores."""

    cpu: float | None = None
    memory: int | None = None
    pids: int | None = None
    disk: int | None = None


def limits_of(
    request: ExecutionRequest, policy: Policy, *, engine: str, memory: int, enforced: Collection[str], reason: Reason
) -> tuple[Limits, list[str]]:
    """The limits that are set, and the names of those that go unenforced.

    `memory`: the host's, whose half is the default. `enforced`: the limits that hold here; `reason` says of another why
    not, and how to mend it. Raises `NotSupported`.
    """
    resources = request.resources
    named: dict[Limit, float | None] = {
        "cpu": resources.cpu,
        "memory": resources.memory,
        "pids": resources.pids,
        "disk": resources.disk,
    }
    defaults: dict[Limit, float] = {"memory": memory // 2, "pids": DEFAULT_PIDS}
    chosen: dict[str, float | None] = {}
    unenforced: list[str] = []
    for limit, value in named.items():
        wanted = value if value is not None else defaults.get(limit)
        chosen[limit] = wanted
        if wanted is None or limit in enforced:
            continue
        if not _may_go_unenforced(limit, value is not None, policy):
            raise _not_enforced(limit, value is not None, engine, reason)
        unenforced.append(limit)
        chosen[limit] = None
    whole = {name: int(value) for name, value in chosen.items() if value is not None and name != "cpu"}
    return Limits(cpu=chosen["cpu"], **whole), unenforced


def loosened_by(request: ExecutionRequest) -> list[str]:
    """What a request has beyond the defaults, for `inspect`."""
    found = [f"network: {request.network}"] if request.network != "none" else []
    for index, volume in enumerate(request.inputs):
        if volume.read_only is False and volume.type != "tmpfs":
            found.append(f"inputs[{index}]: writable")
    return found


def check_least(request: ExecutionRequest) -> None:
    """Raises `InvalidRequest` where a limit is too small for anything."""
    resources = request.resources
    for field, value, least, text in (
        ("cpu", resources.cpu, _LEAST_CPU, "0.01"),
        ("disk", resources.disk, _LEAST_DISK, "1MiB"),
    ):
        if value is not None and value < least:
            raise InvalidRequest(f"{value} is too little to run", path=f"$.resources.{field}", mend=f"At least {text}")


def _may_go_unenforced(limit: Limit, is_named: bool, policy: Policy) -> bool:
    return limit in policy.unenforced or (not is_named and policy.missing_defaults == "record")


def _not_enforced(limit: Limit, is_named: bool, engine: str, reason: Reason) -> NotSupported:
    field = f"$.resources.{limit}"
    what = "it is named" if is_named else "its default is set for every job"
    why, mend = reason(limit)
    return NotSupported(
        f"engine {engine} cannot enforce {field} on this host ({why}), and {what}",
        engine=engine,
        what=field,
        mend=f"{mend}, or open the executor with Policy(unenforced=({limit!r},))",
    )
