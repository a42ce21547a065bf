"""Whether a VM's control group stands still, and making it so.

KVM has a thread of the kernel's in that group (`kvm-nx-lpage-recovery`), which version 2 of many kernels never freezes
and counts all the same: the group is then not said to be frozen, however still the rest of it stands. So it counts here
what was asked for, and that no processor time goes by: https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from ..cgroups.freezer import freeze
from ..errors import EngineUnreachable, NotSupported
from .host import VmHost

__all__ = ["is_standing", "make_stand"]

_DEADLINE = 10.0
_LOOK = 0.02


def is_standing(host: VmHost, group: str) -> bool | None:
    """None where there is no such group. Blocks."""
    if not _is_never_said(host):
        return host.cgroups.is_frozen(group)
    file = host.cgroups.freezer(group)
    try:
        return file is not None and Path(file[0]).read_text(encoding="ascii").strip() == file[1]
    except FileNotFoundError:
        return None


async def make_stand(host: VmHost, group: str, frozen: bool, *, engine: str) -> None:
    """Returns once all of the group stands still, or goes on. Raises FileNotFoundError where it is gone,
    `EngineUnreachable`.
    """
    if not _is_never_said(host):
        await freeze(host.cgroups, group, frozen, engine=engine)
        return
    file = host.cgroups.freezer(group)
    if file is None:
        raise NotSupported("this host has no freezer", engine=engine, what="pause", mend="Mount the freezer controller")
    await asyncio.to_thread(_written, file[0], file[1 if frozen else 2])
    if not frozen:
        return
    stat = Path(file[0]).with_name("cpu.stat")
    try:
        async with asyncio.timeout(_DEADLINE):
            before = -1
            while (used := await asyncio.to_thread(_used, stat)) != before:
                before = used
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise EngineUnreachable(f"the VM did not stand still in {_DEADLINE:g} s") from error


def _is_never_said(host: VmHost) -> bool:
    return host.accelerator == "kvm" and host.cgroups.mode == "v2"


def _written(path: str, text: str) -> None:
    # Not made where it is missing.
    try:
        with open(path, "r+", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        if error.errno == errno.ENODEV:  # it went between the two calls
            raise FileNotFoundError(path) from error
        raise


def _used(stat: Path) -> int:
    """Microseconds of processor time."""
    words = stat.read_text(encoding="ascii").split()
    return int(words[words.index("usage_usec") + 1])
