"""What only root of the caller's user namespace can do: files that a job made as another id are not the caller's own.

`python -m dms_executor.oci.inside remove NAME...`: takes trees in the folder behind descriptor 5 away.
`python -m dms_executor.oci.inside own`: gives what lies beneath that folder to the caller.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ResourcesUnavailable
from ..policy import reopen
from ..supervisor import tether
from ..trees import remove_tree, walk
from ..volumes import Volumes
from .rootless import Rootless
from .undo import leftovers

__all__ = ["Namespace", "clear", "foreign", "give_back", "give_outputs", "own", "remove"]

_DEADLINE = 600.0
_FOLDER = 5
_NOBODY = 65534  # who has no id in the namespace: files of others, which lay there before


class Namespace:
    """What the unpacking of images needs of it."""

    def __init__(self, rootless: Rootless) -> None:
        self._rootless = rootless

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` as root of the namespace. Blocks the first time."""
        return self._rootless.inside(argv)

    async def remove(self, folder: int, name: str) -> None:
        """As `remove_tree`. Raises `ResourcesUnavailable`."""
        await remove(self._rootless, folder, [name])


async def clear(rootless: Rootless, folder: Path) -> None:
    """As `undo.clear_folder`. Raises `ResourcesUnavailable`."""
    fd = await asyncio.to_thread(os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        await remove(rootless, fd, await asyncio.to_thread(leftovers, fd))
    finally:
        os.close(fd)


async def give_outputs(rootless: Rootless, volumes: Volumes) -> None:
    """`give_back` for each output, verified to be the folder that was granted. Raises `PolicyDenied`."""
    for mount in volumes.mounts:
        if mount.output and mount.grant is not None:
            with await asyncio.to_thread(reopen, mount.grant, field=f"{mount.field}.source") as granted:
                await give_back(rootless, granted.fd)


async def remove(rootless: Rootless, folder: int, names: Sequence[str]) -> None:
    """As `remove_tree` for each of `names` in the opened `folder`. Raises `ResourcesUnavailable`."""
    await _run(rootless, folder, "remove", *names)


async def give_back(rootless: Rootless, folder: int) -> None:
    """Makes what lies beneath the opened `folder` the caller's own, as if the job's root had made it."""
    if await asyncio.to_thread(foreign, folder, os.geteuid()):
        await _run(rootless, folder, "own")


def foreign(folder: int, uid: int) -> bool:
    """Whether something beneath the opened `folder` belongs to another, or cannot be looked at. Blocks."""
    try:
        return any(
            status.st_uid != uid or (stat.S_ISDIR(status.st_mode) and status.st_mode & 0o500 != 0o500)
            for _, _, status in walk(folder)
        )
    except PermissionError:
        return True  # the folder itself


def own(folder: int) -> None:
    """Gives every file beneath the opened `folder` to root of this namespace; no symlink is followed. Blocks."""
    for fd, name, status in walk(folder):
        if _NOBODY not in (status.st_uid, status.st_gid) and (status.st_uid, status.st_gid) != (0, 0):
            os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)


async def _run(rootless: Rootless, folder: int, *words: str) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # Python does not take a folder as its stdin.
    shell = ["/bin/sh", "-c", f'exec "$@" {_FOLDER}<&0 0</dev/null', "sh"]
    argv = await asyncio.to_thread(rootless.inside, [*shell, sys.executable, "-m", __name__, *words])
    done = await tether.run(argv, environment=environment, deadline=_DEADLINE, stdin=folder)
    if done.code != 0:
        raise ResourcesUnavailable(
            f"what the job left cannot be {'removed' if words[0] == 'remove' else 'handed over'}: {done.complaint}",
            mend="Mend that, then run `dms-executor cleanup`",
        )


def _main(words: Sequence[str]) -> int:
    try:
        if words[0] == "own":
            own(_FOLDER)
        for name in words[1:]:
            remove_tree(_FOLDER, name)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
