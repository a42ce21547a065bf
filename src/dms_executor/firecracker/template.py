"""The snapshot of a guest of one shape, by Firecracker's API.

The machine is the job's, word for word, but that disks of one sector stand in for the job's own: a guest looks at them
only when it begins (native/guest_wake.c).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from pathlib import Path

from ..cgroups.emptying import empty_group
from ..microvm.booting import booted
from ..microvm.groups import join_files
from ..microvm.launch import Monitor, owner_of
from ..microvm.plan import Plan
from ..microvm.warm import Template, key_of_guest
from ..threads import finished
from .api import Api
from .config import Machine, document, memory_mib
from .host import CALLS_AGAIN, Host, release_of
from .launch import WORDS, argv_in, calling, furnish, options_of
from .network import TAP
from .place import API, CONFIG, Place
from .restoring import MEMORY, STATE, pack
from .spec import FirecrackerParams

__all__ = ["is_worth_keeping", "template_of"]

_LARGEST = 4 << 30  # bytes of a guest's memory, all of which are written for a snapshot
_SECTOR = 512  # native/guest_wake.c


def is_worth_keeping(host: Host, params: FirecrackerParams, memory: int, folder: Path) -> bool:
    """Whether jobs of this shape are cloned. Requests with a kernel or words of their own would have as many shapes as
    somebody likes. Blocks.
    """
    if release_of(host.version) < CALLS_AGAIN or params.kernel_image is not None or params.kernel_args is not None:
        return False
    room = os.statvfs(folder)
    return memory <= min(_LARGEST, room.f_bavail * room.f_frsize // 4)


def template_of(machine: Machine, host: Host, plan: Plan, parent: str, state_dir: Path) -> Template:
    """`parent`: the cgroup of all jobs. Blocks."""

    async def take(fd: int, folder: Path) -> None:
        # One that is jailed outlives a `dms-vm` that is killed: its group tells which it is, also to the next maker.
        group = host.job_group(parent, hashlib.sha256(os.fsencode(folder)).hexdigest()[:32])
        await finished(None, empty_group, host.cgroups, group)
        try:
            place, monitor = await asyncio.to_thread(_furnished, machine, host, plan, group, folder, state_dir)
            async with booted(state_dir, folder, monitor):
                api = Api(place.folder / API)
                await api.pause()
                await api.save(Path(STATE), Path(MEMORY))
            await finished(None, pack, fd, place.folder, memory_mib(machine.memory) << 20)
        finally:
            await finished(None, empty_group, host.cgroups, group)

    words = [document(machine).decode(), host.version, host.jailer or ""]
    return Template(key=key_of_guest(words, host.program, plan.kernel, plan.initrd, state_dir), take=take)


def _furnished(
    machine: Machine, host: Host, plan: Plan, group: str, folder: Path, state_dir: Path
) -> tuple[Place, Monitor]:
    name = secrets.token_hex(16)
    owner = owner_of(name)
    place = Place(folder, name, owner, host.program if host.jailer else None)
    furnish(place, plan, state_dir)
    for drive in machine.drives:
        place.write(drive.name, bytes(_SECTOR))
    place.write(CONFIG, document(machine))
    options = [*options_of(place, folder, host, owner), *calling(owner)]
    options += ["-n", TAP, str(owner)] if machine.interfaces else []
    for file in join_files(host, group):
        options += ["-j", file]
    argv = argv_in(place, host, owner, ["--config-file", CONFIG, "--api-sock", API, *WORDS])
    return place, Monitor(argv=argv, options=options)
