"""What this host offers to the engine: looked at once per process, and the reason if it cannot be used."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from ..cgroups import detect
from ..errors import EngineUnavailable
from ..microvm.clock import tsc_khz
from ..microvm.host import VmHost, check_platform, missing_kvm, with_groups
from ..microvm.trials import tried
from .spec import QemuSettings
from .trial import trial

__all__ = ["Host", "prepare_host"]

_TRIAL_SECONDS = 10.0


class Host(VmHost, frozen=True, kw_only=True):
    """`why`: why it is emulation and not KVM; empty with KVM."""

    why: str
    tsc_khz: int | None = None


async def prepare_host(settings: QemuSettings) -> Host:
    """Makes what all executions share. Raises `EngineUnavailable`."""
    return await with_groups(await asyncio.to_thread(_look, settings), settings)


def _look(settings: QemuSettings) -> Host:
    """Blocks: an accelerator is known by a try."""
    check_platform("qemu")
    name = settings.program or "qemu-system-x86_64"
    program = shutil.which(name)
    if program is None:
        raise EngineUnavailable(f"{name} is not installed", mend="apt-get install qemu-system-x86")
    why = "the settings say so" if settings.accelerator == "tcg" else _without_kvm(program)
    if why and settings.accelerator == "kvm":
        raise EngineUnavailable(f"KVM does not work: {why}", mend="Leave the setting accelerator out")
    if why:
        emulation = _tried(program, "tcg", "max")
        if emulation:
            raise EngineUnavailable(f"neither KVM ({why}) nor emulation ({emulation}) works", mend="Install QEMU again")
    return Host(
        program=program,
        accelerator="tcg" if why else "kvm",
        why=why,
        cgroups=detect(),
        kvm_group=0 if why else Path("/dev/kvm").stat().st_gid,
        tsc_khz=tsc_khz() if why else None,
    )


def _without_kvm(program: str) -> str:
    # A KVM that opens may still run no guest: one that is nested, or emulates.
    return missing_kvm() or _tried(program, "kvm", "host")


def _tried(program: str, accelerator: str, processor: str) -> str:
    return tried(program, lambda: trial(program, accelerator, processor, _TRIAL_SECONDS), accelerator, processor)
