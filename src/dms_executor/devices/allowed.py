"""Which devices a policy allows, by their names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..errors import PolicyDenied
from ..policy import Policy

__all__ = ["allows", "check_allowed"]


def allows(policy: Policy, *names: str) -> bool:
    """Whether the policy allows one of `names`, all of one device."""
    patterns = [pattern if "=" in pattern or pattern == "*" else f"{pattern}=*" for pattern in policy.devices]
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def check_allowed(policy: Policy, *names: str, field: str) -> None:
    """Raises `PolicyDenied`."""
    if not allows(policy, *names):
        raise PolicyDenied(
            f"{field}: the policy does not allow the device {names[0]!r}",
            mend=f"Its owner can allow it by Policy(devices=(..., {names[0]!r}))",
        )
