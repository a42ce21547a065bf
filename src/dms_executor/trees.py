"""Removing a tree of files that a stranger made: any depth, any names, no symlink followed, few descriptors."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["remove_tree"]


def remove_tree(folder: int, name: str) -> int:
    """Removes `name` in the opened `folder`; returns the number of files. Nothing there: nothing to do. Blocks.

    A job may nest folders deeper than a recursion or the limit of open files goes. So each folder that is found is
    first renamed up to one level below `folder`, and none is ever deeper than that when it is emptied.
    """
    waiting = [name]
    removed = 0
    counter = 0
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(current, dir_fd=folder)
            removed += 1
            continue
        if status.st_mode & 0o700 != 0o700:
            os.chmod(current, 0o700, dir_fd=folder, follow_symlinks=True)
        fd = os.open(current, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            for inner in _emptied(fd):
                counter += 1
                waiting.append(_lifted(folder, fd, inner, f"{name}.{counter}"))
                removed += 1
        finally:
            os.close(fd)
        _rmdir(folder, current)
    return removed


def _emptied(fd: int) -> list[bytes]:
    """Unlinks all but the folders, and returns those."""
    folders = []
    with os.scandir(os.fsencode(f"/proc/self/fd/{fd}")) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return folders


def _lifted(folder: int, fd: int, inner: bytes, free: str) -> str:
    while True:
        try:
            os.rename(inner, os.fsencode(free), src_dir_fd=fd, dst_dir_fd=folder)
            return free
        except OSError as error:
            # A leftover of a removal that was cut off: it goes with the next one of its name; take another.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise
            free += "~"


def _rmdir(folder: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return
