"""What this host offers to the engine: looked at once per process, and the reason if it cannot be used."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

from ..cgroups import detect
from ..errors import EngineUnavailable
from ..microvm.host import VmHost, check_platform, missing_kvm, with_groups
from ..microvm.trials import tried
from .spec import FirecrackerSettings
from .trial import trial

__all__ = ["CALLS_AGAIN", "DEAF", "Host", "can_save", "kvm_owner", "prepare_host", "release_of"]

_TRIAL_SECONDS = 10.0
_INSTALL = "Install a release of https://github.com/firecracker-microvm/firecracker"
_VERSION = re.compile(r"v([0-9]+)\.([0-9]+)\.[0-9]+[0-9A-Za-z.+-]*")
_OLDEST = (1, 5)  # the first that knows the entropy device in its file and both forms of metadata
CALLS_AGAIN = (1, 10)  # the first that tells a restored guest that its calls have ended
DEAF = (1, 16)  # https://github.com/firecracker-microvm/firecracker/pull/6100


class Host(VmHost, frozen=True, kw_only=True):
    """`jailer`: its path, or None: Firecracker runs without it. `version`: as Firecracker says it."""

    jailer: str | None
    version: str


async def prepare_host(settings: FirecrackerSettings) -> Host:
    """Makes what all executions share. Raises `EngineUnavailable`."""
    return await with_groups(await asyncio.to_thread(_look, settings), settings)


def _look(settings: FirecrackerSettings) -> Host:
    """Blocks: whether KVM runs a guest is known by a try."""
    check_platform("firecracker")
    program = _found(settings.program)
    version = _version(program)
    jailer = None
    if settings.jailed:
        jailer = _found(settings.jailer, ", which has it, or set jailed to false")
        name = Path(program).resolve().name
        if "firecracker" not in name:
            raise EngineUnavailable(f"the jailer starts no {name!r}", mend="Let the program's name hold 'firecracker'")
    if problem := missing_kvm():
        raise EngineUnavailable(
            problem, mend="Give this user read and write access to /dev/kvm, or use the engine qemu"
        )
    group, mode = kvm_owner()
    if jailer is None and mode & 0o006 != 0o006 and not (group and mode & 0o060 == 0o060):
        raise EngineUnavailable(
            "/dev/kvm is root's alone, and without its jailer Firecracker runs as a user of the VM's own",
            mend="chgrp kvm /dev/kvm && chmod 660 /dev/kvm, or leave the setting jailed out",
        )
    if problem := tried(program, lambda: trial(program, _TRIAL_SECONDS)):
        raise EngineUnavailable(f"KVM runs no guest here: {problem}", mend="Use the engine qemu, which needs no KVM")
    return Host(
        program=program,
        cgroups=detect(),
        kvm_group=group,
        jailer=jailer,
        version=version,
    )


def kvm_owner() -> tuple[int, int]:
    """The group and the mode of its node. Blocks."""
    status = Path("/dev/kvm").stat()
    return status.st_gid, status.st_mode


def _found(name: str, more: str = "") -> str:
    path = shutil.which(name)
    if path is None:
        raise EngineUnavailable(f"{name} is not installed", mend=_INSTALL + more)
    return path


def _version(program: str) -> str:
    """Raises `EngineUnavailable` where it is none, or too old. Blocks."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnavailable(f"{program} does not run: {error}", mend=_INSTALL) from error
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    if found is None:
        raise EngineUnavailable(f"{program} does not say which version it is", mend=_INSTALL)
    if release_of(found[0]) < _OLDEST:
        raise EngineUnavailable(f"Firecracker {found[0]} is too old", mend=f"{_INSTALL}, v1.5.0 or later")
    return found[0]


def release_of(version: str) -> tuple[int, int]:
    """Its first two numbers."""
    found = _VERSION.match(version)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def can_save(host: Host) -> bool:
    """Whether this release brings a guest to the disk and back without losing it."""
    release = release_of(host.version)
    return release >= CALLS_AGAIN and release != DEAF
