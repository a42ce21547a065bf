"""The disks of a guest: its root, what it may write to, what it is given and what it gives back.

All lie in one folder of the execution's, under names of ours. A guest finds them in the order of `Drives.files`, as
vda, vdb and so on. An input is an image (`rootimage`), a writable folder or file an image of what is there already,
with the guest's layer above, that comes back as an output (`outputs`, `written`); by descriptors of what was granted.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..policy import Granted, reopen
from ..threads import finished
from ..volumes import Volume, Volumes
from .guest import GuestVolume
from .outputs import make_device, unpack_outputs
from .rootimage import fingerprint, lend
from .scratch import make_scratch
from .written import NAME, place_for, put_back

__all__ = ["MOST", "ROOT", "Drive", "Drives", "collect_drives", "drives_of", "lend_folder", "make_drives", "written"]

ROOT = "root.img"
MOST = 20  # of the machine's slots for devices, some are taken by others
_SCRATCH = "scratch.img"
_OUTPUTS = "outputs.img"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """`name`: its file in the folder."""

    name: str
    read_only: bool = True


class Drives(msgspec.Struct, frozen=True, kw_only=True):
    """`scratch`, `outputs`: the device that has this part, if there is one. `volumes`: the job's mounts."""

    files: list[Drive]
    volumes: list[GuestVolume]
    scratch: str | None = None
    outputs: str | None = None


def written(volumes: Volumes) -> list[Volume]:
    """What of the host the job writes to, in the order of their streams: targets land in another one."""
    found = [mount for mount in volumes.mounts if mount.grant is not None and not mount.read_only]
    return sorted(found, key=lambda mount: mount.field)


async def make_drives(volumes: Volumes, folder: Path, cache: Path, *, disk: int | None, most: int) -> None:
    """All but the root. `disk`: bytes that the job may write to its root; `most`: to its outputs.

    Raises `InvalidRequest`, `ResourcesUnavailable`, `StartFailed`.
    """
    if disk is not None:
        await make_scratch(folder / _SCRATCH, disk)
    for mount in volumes.mounts:
        if mount.grant is None:
            continue
        granted = await asyncio.to_thread(reopen, mount.grant, field=f"{mount.field}.source")
        with granted:
            if mount.read_only or not granted.is_dir or not await asyncio.to_thread(_is_empty, granted):
                await lend_folder(granted, cache, folder / _image(mount))
    if written(volumes):
        await make_device(folder / _OUTPUTS, most)


async def lend_folder(granted: Granted, cache: Path, place: Path) -> None:
    """The image of a granted folder or file, under the further name `place`."""
    tree = Path(f"/proc/{os.getpid()}/fd/{granted.fd}")
    await lend(tree, cache, await fingerprint(tree), place)


def drives_of(volumes: Volumes, folder: Path) -> Drives:
    """What `make_drives` made there, as a machine and its guest are told. Blocks."""
    files = [Drive(name=ROOT)]
    found: dict[str, str | None] = {}

    def device(name: str, read_only: bool = True) -> str:
        if not (folder / name).exists():
            return ""
        files.append(Drive(name=name, read_only=read_only))
        return f"vd{_LETTERS[len(files) - 1]}"

    for name in (_SCRATCH, _OUTPUTS):
        found[name] = device(name, read_only=False) or None
    numbers = {mount.field: number for number, mount in enumerate(written(volumes))}
    mounts = [_guest_volume(mount, numbers.get(mount.field, 0), device) for mount in volumes.mounts]
    return Drives(files=files, volumes=mounts, scratch=found[_SCRATCH], outputs=found[_OUTPUTS])


async def collect_drives(volumes: Volumes, folder: Path) -> list[str]:
    """Unpacks what the guest wrote to its outputs into the folders and files that were granted; what there is to tell.

    Idempotent. Raises `CopyFailed`, `PolicyDenied`.
    """
    mounts = written(volumes)
    if not mounts:
        return []
    opened: list[Granted] = []
    beside: dict[int, int] = {}
    try:
        for number, mount in enumerate(mounts):
            if mount.grant is not None:
                opened.append(await asyncio.to_thread(reopen, mount.grant, field=f"{mount.field}.source"))
                if not mount.grant.is_dir:
                    beside[number] = await finished(os.close, place_for, folder / f"{number}.written")
        folders = [beside.get(number, granted.fd) for number, granted in enumerate(opened)]
        told = await unpack_outputs(folder / _OUTPUTS, folders, keep_owner=False, only=dict.fromkeys(beside, NAME))
        for number, place in beside.items():
            granted = opened[number]
            await finished(None, put_back, place, granted.fd, granted.grant.host_path)
        return told
    finally:
        for granted in opened:
            granted.close()
        for place in beside.values():
            os.close(place)


def _guest_volume(mount: Volume, number: int, device: Callable[[str], str]) -> GuestVolume:
    if mount.grant is None:
        return GuestVolume(kind="tmpfs", target=mount.target, size=mount.size or 0)
    kind = "folder" if mount.grant.is_dir else "file"
    if not mount.read_only:
        kind = "output" if mount.grant.is_dir else "output-file"
    return GuestVolume(kind=kind, target=mount.target, device=device(_image(mount)), size=number)


def _image(mount: Volume) -> str:
    """Of the field, which is the request's: `$.inputs[0]`."""
    return f"{'-'.join(re.findall('[a-z0-9]+', mount.field))}.img"


def _is_empty(granted: Granted) -> bool:
    fd = os.open(f"/proc/self/fd/{granted.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)
