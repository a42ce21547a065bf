"""Where a volume's target lands in the image: its symlinks followed as the runtime will follow them.

A target is judged by where it lands and not by its text: with a symlink `/d -> /dev` in the image, `/d/x` lies in the
job's own `/dev`, where it could cover our init. The runtime then gets the path without symlinks.
"""

from __future__ import annotations

import errno
import os
import stat

import msgspec

from .beneath import NO_SYMLINKS, open_beneath, open_in_root
from .errors import InvalidRequest, StartFailed
from .policy import reopen
from .volumes import RESERVED_TARGETS, Volume, Volumes

__all__ = ["landed", "leads_to"]

_MOST_LINKS = 40  # MAXSYMLINKS of the kernel's linux/namei.h


def landed(root: int, volumes: Volumes) -> Volumes:
    """`volumes` with each target where it lands in the opened `root`, parents first. Raises `InvalidRequest`."""
    mounts = [_landed(root, mount) for mount in volumes.mounts]
    mounts.sort(key=lambda mount: mount.target.count("/"))
    for index, mount in enumerate(mounts):
        for above in mounts[:index]:
            _check_way(above, mount)
    return msgspec.structs.replace(volumes, mounts=mounts)


def leads_to(root: int, path: str) -> str:
    """The absolute `path` without symlinks, `.` and `..`, in the opened folder `root`; what is absent stays as it is.

    Raises `StartFailed` where it leads in a circle or cannot be looked at.
    """
    done: list[str] = []
    waiting = path.split("/")[::-1]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            done = done[:-1]
        if part in ("", ".", ".."):
            continue
        link = _link(root, "/".join([*done, part]))
        if link is None:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise StartFailed(f"the image's symlinks lead {path!r} in a circle", mend="Mend the image")
        if link.startswith("/"):
            done = []
        waiting.extend(link.split("/")[::-1])
    return "/" + "/".join(done)


def _landed(root: int, mount: Volume) -> Volume:
    target = leads_to(root, mount.target)
    if target == "/" or any(_lies_in(target, reserved) for reserved in RESERVED_TARGETS):
        raise InvalidRequest(
            f"{mount.target!r} leads to {target!r} in this image, which is the job's own",
            path=f"{mount.field}.target",
            mend="Use another target, or an image without that symlink",
        )
    return msgspec.structs.replace(mount, target=target)


def _check_way(above: Volume, mount: Volume) -> None:
    """What lies in another volume is reached through that volume's own folders, which may hold symlinks, too."""
    if above.grant is None or not above.grant.is_dir or not _lies_in(mount.target, above.target):
        return
    inside = mount.target[len(above.target) :].lstrip("/")
    try:
        with reopen(above.grant, field=f"{above.field}.source") as granted:
            os.close(open_beneath(granted.fd, os.fsencode(inside or "."), resolve=NO_SYMLINKS))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidRequest(
                f"{mount.target!r} leads through a symlink of {above.field}",
                path=f"{mount.field}.target",
                mend="Use another target",
            ) from error


def _link(root: int, path: str) -> str | None:
    """What the symlink at `path`, whose folders hold none, says; None where there is no symlink."""
    try:
        fd = open_in_root(root, os.fsencode(path), os.O_PATH | os.O_NOFOLLOW, resolve=NO_SYMLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StartFailed(f"the image's {path!r} cannot be looked at: {error.strerror}") from error
    try:
        return os.fsdecode(os.readlink(b"", dir_fd=fd)) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
