"""The `qemu` engine: its probe, in this release."""

from __future__ import annotations

import asyncio
import platform
import shutil
from typing import ClassVar

from ..planned import Missing, PlannedEngine, missing_kvm

__all__ = ["QemuEngine"]


class QemuEngine(PlannedEngine):
    """MicroVMs by QEMU."""

    name: ClassVar[str] = "qemu"
    rank: ClassVar[int] = 40

    async def look(self) -> Missing:
        """The binary; without KVM it would emulate, slowly."""
        return await asyncio.to_thread(_missing)


def _missing() -> Missing:
    program = f"qemu-system-{platform.machine()}"
    if shutil.which(program) is None:
        return Missing(problem=f"no {program} in PATH", mend="apt-get install qemu-system-x86")
    kvm = missing_kvm()
    return Missing(version=f"{program}, {'emulation only: ' + kvm if kvm else 'KVM not tried'}")
