"""The `firecracker` engine: its probe, in this release."""

from __future__ import annotations

import asyncio
import shutil
from typing import ClassVar

from ..planned import Missing, PlannedEngine, missing_kvm

__all__ = ["FirecrackerEngine"]


class FirecrackerEngine(PlannedEngine):
    """MicroVMs by Firecracker."""

    name: ClassVar[str] = "firecracker"
    rank: ClassVar[int] = 30

    async def look(self) -> Missing:
        """The binary, and KVM."""
        return await asyncio.to_thread(_missing)


def _missing() -> Missing:
    problems = [] if shutil.which("firecracker") else ["no firecracker binary in PATH"]
    kvm = missing_kvm()
    mends = ["Install a release of https://github.com/firecracker-microvm/firecracker"] if problems else []
    if kvm:
        problems.append(kvm)
        mends.append("give this user read and write access to /dev/kvm")
    return Missing(problem="; ".join(problems), mend=", ".join(mends))
