"""From a plan to how Firecracker is run: its folder, its machine's file, its command line, behind the jailer or not."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..engine import Execution
from ..errors import StartFailed
from ..microvm.drives import Drives
from ..microvm.launch import Launch, Monitor
from ..microvm.plan import FOLDER, Plan
from ..microvm.plan import MEMORY as SAVED
from .config import AGENT_PORT, Machine, document
from .host import Host, can_save
from .machine import INITRD, KERNEL, drive_name
from .network import way_to
from .place import API, CONFIG, METADATA, VSOCK, Place, clear_places
from .restoring import brought_back, restored

__all__ = ["WORDS", "argv_in", "calling", "furnish", "kernel_in", "monitor_again", "monitor_of", "options_of", "run_in"]

WORDS = ("--level", "Warning")  # of its own: what it says goes to the console


def monitor_of(
    x: Execution, host: Host, launch: Launch, plan: Plan, drives: Drives, machine: Machine, cache: Path
) -> Monitor:
    """Of a job's guest. `cache`: what lies below it is ours. Blocks."""
    suspends = can_save(host)
    disks = x.folder / FOLDER
    clear_places(disks)
    program = host.program if host.jailer else None
    place = Place(disks, x.token, launch.owner, program)
    furnish(place, plan, cache)
    _put_disks(place, disks, drives)
    place.write(CONFIG, document(machine))
    options = [*options_of(place, x.folder, host, launch.owner), *calling(launch.owner)]
    options += way_to(launch.owner) if x.request.network == "user" else []
    cold = argv_in(place, host, launch.owner, ["--config-file", CONFIG, "--api-sock", API, *WORDS])
    if plan.snapshot is None:
        return Monitor(argv=cold, options=options, suspends=suspends)
    # A place of its own: where that start fails, what it left is in the way of none.
    other = Place(disks, f"{x.token}-warm", launch.owner, program)
    _put_disks(other, disks, drives)
    calls = restored(other, Path(plan.snapshot), machine)
    if calls is None:
        return Monitor(argv=cold, options=options, suspends=suspends)
    warm = argv_in(other, host, launch.owner, ["--api-sock", API, *WORDS])
    options += ["-w", str(len(warm) - 1), str(len(cold) - 1), "-W", os.fspath(other.folder.relative_to(x.folder))]
    for call, body in calls:
        options += ["-C", call, body]
    return Monitor(argv=[*warm, *cold[1:]], options=options, suspends=suspends)


def monitor_again(x: Execution, host: Host, launch: Launch, drives: Drives) -> Monitor:
    """Of a job's guest that was saved. Blocks."""
    disks = x.folder / FOLDER
    clear_places(disks)
    place = Place(disks, x.token, launch.owner, host.program if host.jailer else None)
    _put_disks(place, disks, drives)
    options = [*options_of(place, x.folder, host, launch.owner), *calling(launch.owner), "-b"]
    options += way_to(launch.owner) if x.request.network == "user" else []
    for call, body in brought_back(place, disks / SAVED):
        options += ["-C", call, body]
    argv = argv_in(place, host, launch.owner, ["--api-sock", API, *WORDS])
    return Monitor(argv=argv, options=options, suspends=True)


def furnish(place: Place, plan: Plan, cache: Path) -> None:
    """What a guest boots. Blocks. Raises `StartFailed`."""
    kernel_in(place, Path(plan.kernel), cache)
    place.lend(Path(plan.initrd), INITRD)


def kernel_in(place: Place, kernel: Path, cache: Path) -> Path:
    """One that lies uncompressed where the machine's owner has it stays as it is. Raises `StartFailed`."""
    if kernel.is_relative_to(cache):
        return place.lend(kernel, KERNEL)
    fd = os.open(kernel, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StartFailed(f"{os.fspath(kernel)!r} is no file any more", mend="Put the kernel back in its place")
        return place.copy(fd, KERNEL)
    finally:
        os.close(fd)


def calling(owner: int) -> list[str]:
    """Of `dms-vm`: where the guest's agent calls, and the API."""
    return ["-l", f"{VSOCK}_{AGENT_PORT}", str(owner), "-a", API]


def options_of(place: Place, folder: Path, host: Host, owner: int) -> list[str]:
    """Of `dms-vm`, whose folder is `folder`: where and as whom it runs what starts the machine."""
    user = ["-u", str(owner), str(owner), str(host.kvm_group)] if host.jailer is None else []
    return [*user, "-d", os.fspath(place.folder.relative_to(folder))]


def argv_in(place: Place, host: Host, owner: int, told: Sequence[str]) -> list[str]:
    """The command line in that place."""
    if host.jailer is None:
        return [host.program, "--id", place.name, *told]
    argv = [host.jailer, "--id", place.name, "--exec-file", host.program, "--uid", str(owner), "--gid", str(owner)]
    return [*argv, "--chroot-base-dir", os.fspath(place.base), "--", *told]


def run_in(place: Place, x: Execution, host: Host, owner: int, options: Sequence[str]) -> Monitor:
    """Of a machine of the user's own."""
    told = ["--config-file", CONFIG, "--api-sock", API]
    if (place.folder / METADATA).exists():
        told += ["--metadata", METADATA]
    argv = argv_in(place, host, owner, told)
    return Monitor(argv=argv, options=[*options_of(place, x.folder, host, owner), *options])


def _put_disks(place: Place, disks: Path, drives: Drives) -> None:
    for number, drive in enumerate(drives.files):
        (place.lend if drive.read_only else place.give)(disks / drive.name, drive_name(number))
