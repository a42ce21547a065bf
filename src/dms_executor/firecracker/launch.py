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
from .config import AGENT_PORT, Drive, Machine, boot_args, document, vcpus
from .host import Host
from .network import interface, way_to
from .place import API, CONFIG, METADATA, VSOCK, Place
from .spec import FirecrackerParams, FirecrackerSettings

__all__ = ["kernel_in", "monitor_of", "run_in"]

_OWN_MEMORY = 96 << 20  # bytes that the guest's kernel and agent have beside the job
# The console is for a guest's last words; more serial ports cost a boot's time.
_WORDS = ("console=ttyS0", "8250.nr_uarts=1")


def monitor_of(
    x: Execution,
    host: Host,
    launch: Launch,
    plan: Plan,
    drives: Drives,
    params: FirecrackerParams,
    settings: FirecrackerSettings,
    cache: Path,
) -> Monitor:
    """Of a job's guest. `cache`: what lies below it is ours. Blocks."""
    disks = x.folder / FOLDER
    place = Place(disks, x.token, launch.owner, host.program if host.jailer else None)
    described = []
    for drive in drives.files:
        name = Path(drive.name).stem
        path = (place.lend if drive.read_only else place.give)(disks / drive.name, drive.name)
        described.append(Drive(name=name.replace("-", "_"), path=path, read_only=drive.read_only))
    has_network = x.request.network == "user"
    machine = Machine(
        kernel=kernel_in(place, Path(plan.kernel), cache),
        initrd=place.lend(Path(plan.initrd), "initrd"),
        vcpus=vcpus(plan.limits.cpu or 1.0, len(os.sched_getaffinity(0))),
        memory=(plan.limits.memory or settings.memory << 20) + _OWN_MEMORY,
        boot_args=boot_args([*_WORDS, *settings.kernel_args.split()], params.kernel_args),
        drives=described,
        interfaces=[interface()] if has_network else [],
        vsock=Path(VSOCK),
    )
    place.write(CONFIG, document(machine))
    calls = ["-l", f"{VSOCK}_{AGENT_PORT}", str(launch.owner), "-a", API]
    calls += way_to(launch.owner) if has_network else []
    return run_in(place, x, host, launch.owner, calls, ["--level", "Warning"])


def kernel_in(place: Place, kernel: Path, cache: Path) -> Path:
    """One that lies uncompressed where the machine's owner has it stays as it is. Raises `StartFailed`."""
    if kernel.is_relative_to(cache):
        return place.lend(kernel, "kernel")
    fd = os.open(kernel, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StartFailed(f"{os.fspath(kernel)!r} is no file any more", mend="Put the kernel back in its place")
        return place.copy(fd, "kernel")
    finally:
        os.close(fd)


def run_in(place: Place, x: Execution, host: Host, owner: int, options: Sequence[str], words: Sequence[str]) -> Monitor:
    """The command line in that place. `options`: of `dms-vm`; `words`: of Firecracker."""
    told = ["--config-file", CONFIG, "--api-sock", API, *words]
    if (place.folder / METADATA).exists():
        told += ["--metadata", METADATA]
    place_of = ["-d", os.fspath(place.folder.relative_to(x.folder))]
    if host.jailer is None:
        user = ["-u", str(owner), str(owner), str(host.kvm_group)]
        return Monitor(argv=[host.program, "--id", x.token, *told], options=[*user, *place_of, *options])
    argv = [host.jailer, "--id", x.token, "--exec-file", host.program, "--uid", str(owner), "--gid", str(owner)]
    argv += ["--chroot-base-dir", os.fspath(place.base), "--", *told]
    return Monitor(argv=argv, options=[*place_of, *options])
