"""Set-user-id bits and file capabilities that a job left where it could write: taken away when the job has ended.

A file that a job's root made in an output is root's outside as well. With the bit set, whoever of the host reaches it
becomes root; in the job itself the bit has no effect (no_new_privileges).
https://man7.org/linux/man-pages/man7/capabilities.7.html
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["strip_setid"]

_BITS = stat.S_ISUID | stat.S_ISGID
_CAPABILITIES = "security.capability"
_TRIES = 3
# An unprivileged executor can neither enter nor change what belongs to its job's other ids, none of which is its own.
_NOT_OURS = (errno.EPERM, errno.EACCES)


def strip_setid(fd: int) -> int:
    """In the opened file or folder and all beneath it, other mounts too; how many files it changed. Blocks.

    Follows no symlink and needs two descriptors at any depth. Raises OSError: EBUSY, folders are moved all the time.
    """
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        return _strip_file(fd)
    changed = 0
    for _ in range(_TRIES):
        found, whole = _walk(fd)
        changed += found
        if whole:
            return changed
    raise OSError(errno.EBUSY, "folders in it are being moved")


def _walk(root: int) -> tuple[int, bool]:
    """Down by name and up by `..`; False where that led elsewhere, since somebody moved a folder meanwhile."""
    at = os.open(f"/proc/self/fd/{root}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        changed, folders = _strip_folder(at)
        # Of each level its identity and the folders in it that are still to come.
        levels = [(_identity(at), folders)]
        while levels:
            if levels[-1][1]:
                inner = _enter(at, levels[-1][1].pop())
                if inner is None:
                    continue
                os.close(at)
                at = inner
                found, folders = _strip_folder(at)
                changed += found
                levels.append((_identity(at), folders))
                continue
            levels.pop()
            if levels:
                above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = above
                if _identity(at) != levels[-1][0]:
                    return changed, False
        return changed, True
    finally:
        os.close(at)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _enter(folder: int, name: bytes) -> int | None:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        if gone or (os.geteuid() != 0 and error.errno in _NOT_OURS):
            return None
        raise


def _strip_folder(folder: int) -> tuple[int, list[bytes]]:
    """The files that lie in it; returns how many it changed, and the names of the folders."""
    changed, folders = 0, []
    with os.scandir(os.fsencode(f"/proc/self/fd/{folder}")) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and _is_privileged(entry):
                changed += _strip_entry(folder, entry.name)
    return changed, folders


def _is_privileged(entry: os.DirEntry[bytes]) -> bool:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
        return bool(mode & _BITS) or _has_capabilities(entry.path, follow=False)
    except FileNotFoundError:
        return False


def _has_capabilities(path: str | bytes, *, follow: bool) -> bool:
    try:
        return bool(os.getxattr(path, _CAPABILITIES, follow_symlinks=follow))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT, *_NOT_OURS):
            return False
        raise


def _strip_entry(folder: int, name: bytes) -> int:
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return 0
    try:
        return _strip_file(fd)
    finally:
        os.close(fd)


def _strip_file(fd: int) -> int:
    # By its opened descriptor: neither the name nor a symlink in its place counts any more.
    path = f"/proc/self/fd/{fd}"
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return 0
    try:
        capable = _has_capabilities(path, follow=True)
        if capable:
            os.removexattr(path, _CAPABILITIES)
        if status.st_mode & _BITS:
            Path(path).chmod(stat.S_IMODE(status.st_mode) & ~_BITS)
        return int(capable or bool(status.st_mode & _BITS))
    except OSError as error:
        # A read-only mount beneath it: the job could not write there either.
        if error.errno == errno.EROFS or (os.geteuid() != 0 and error.errno in _NOT_OURS):
            return 0
        raise
