"""The `qemu` engine: its probe, in this release."""

from __future__ import annotations

import asyncio
import platform
import shutil
from typing import ClassVar

from ..planned import Missing, PlannedEngine, missing_kvm
from .trial import trial

__all__ = ["QemuEngine"]

_TRIAL_SECONDS = 10.0


class QemuEngine(PlannedEngine):
    """MicroVMs by QEMU."""

    name: ClassVar[str] = "qemu"
    rank: ClassVar[int] = 40

    async def look(self) -> Missing:
        """The binary, and what really runs a guest: KVM, or emulation, slowly."""
        return await asyncio.to_thread(_missing)


def _missing() -> Missing:
    program = f"qemu-system-{platform.machine()}"
    if shutil.which(program) is None:
        return Missing(problem=f"no {program} in PATH", mend="apt-get install qemu-system-x86")
    kvm = missing_kvm()
    if platform.machine() != "x86_64":
        return Missing(version=f"{program}, {'emulation only: ' + kvm if kvm else 'KVM not tried'}")
    # A KVM that opens may still run no guest: one that is nested, or emulates.
    kvm = kvm or trial(program, "kvm", "host", _TRIAL_SECONDS)
    if not kvm:
        return Missing(version=f"{program}, KVM")
    emulation = trial(program, "tcg", "max", _TRIAL_SECONDS)
    if emulation:
        return Missing(problem=f"neither KVM ({kvm}) nor emulation ({emulation}) works", mend="reinstall QEMU")
    return Missing(version=f"{program}, emulation only: {kvm}")
