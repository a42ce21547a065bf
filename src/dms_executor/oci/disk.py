"""`resources.disk`: the writable layer as an ext4 image of that size, mounted by the shim on a loop device.

No quota of the host's file system is needed, and a job that fills its disk fills nothing else.
https://man7.org/linux/man-pages/man8/mke2fs.8.html
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ResourcesUnavailable
from ..images import ImageStore
from ..policy import reopen
from ..programs import ENVIRONMENT
from ..supervisor import tether
from ..threads import finished
from .host import Host
from .launch import make_layer
from .plan import Plan

__all__ = ["make_disk"]

_DEADLINE = 60.0


async def make_disk(folder: Path, size: int, host: Host, plan: Plan, store: ImageStore) -> None:
    """Makes `disk.img`, sparse, with the layer's empty folders in it. Raises `ResourcesUnavailable`."""
    await finished(None, _lay_out, folder, size, plan, store)
    # No journal: after a crash the layer is thrown away. -m 0: no blocks kept for root.
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0"]
    argv = [host.mke2fs or "mke2fs", *options, "-d", f"{folder}/layer", f"{folder}/disk.img"]
    done = await tether.run(argv, environment=ENVIRONMENT, deadline=_DEADLINE)
    if done.code != 0:
        raise ResourcesUnavailable(
            f"the disk cannot be made: {done.complaint}", mend="Ask for a larger disk, or free space"
        )


def _lay_out(folder: Path, size: int, plan: Plan, store: ImageStore) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(folder / "disk.img", flags, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    if plan.root is not None:
        with reopen(plan.root) as granted:
            make_layer(folder / "layer", granted.fd)
        return
    lower = os.open(store.rootfs(plan.digest or ""), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_layer(folder / "layer", lower)
    finally:
        os.close(lower)
