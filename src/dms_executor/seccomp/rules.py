"""The rules of a seccomp profile, in the words that Docker's profile and the OCI form share."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Action", "Argument", "Condition", "Operator", "Rule"]

# As the profile writes them; the runtime's spec knows more, which no profile of these uses.
Action = Literal["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"]
Operator = Literal[
    "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"
]


class Argument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A comparison of one of a call's arguments."""

    index: int
    value: int
    value_two: int = 0
    op: Operator


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """When a rule counts, or does not."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happens to some calls. `includes` and `excludes` are the profile's own conditions."""

    names: list[str]
    action: Action
    args: list[Argument] | None = None
    errno_ret: int | None = None
    includes: Condition | None = None
    excludes: Condition | None = None
