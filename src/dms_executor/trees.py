"""Trees of files that a stranger made: any depth, any names, no symlink followed, few descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

__all__ = ["remove_tree", "walk"]

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_BUSY = 1000  # times that a folder may be full again, before it must be a living job's


def remove_tree(folder: int, name: str) -> int:
    """Removes `name` in the opened `folder`; returns the number of files. Nothing there: nothing to do. Blocks.

    A job may nest folders deeper than a recursion or the limit of open files goes. So each folder that is found is
    first renamed up to one level below `folder`, and none is ever deeper than that when it is emptied. Another process
    may remove the same tree meanwhile: what one of them no longer finds, the other has.
    """
    waiting = [name]
    removed = 0
    counter = busy = 0
    while waiting:
        current = waiting.pop()
        with contextlib.suppress(FileNotFoundError):
            fd = _opened(folder, current)
            if fd is None:
                os.unlink(current, dir_fd=folder)
                removed += 1
                continue
            try:
                for inner in _emptied(fd):
                    counter += 1
                    waiting.append(_lifted(folder, fd, inner, f"{name}.{counter}"))
                    removed += 1
            finally:
                os.close(fd)
        if not _rmdir(folder, current, may_stay=busy < _BUSY):
            busy += 1
            waiting.append(current)
    return removed


def _opened(folder: int, name: str) -> int | None:
    """None where it is no folder."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        return None
    if status.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=folder, follow_symlinks=True)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def walk(folder: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """Everything beneath the opened `folder`: its folder opened, its name, its status. Blocks.

    A folder is opened after it was given, so that who takes it may make it readable first; one that cannot be opened is
    passed over. One descriptor is open at a time: the way back is `..`, and ESTALE if it leads elsewhere meanwhile.
    """
    fd = os.open(f"/proc/self/fd/{folder}", _READ & ~os.O_NOFOLLOW)
    levels: list[tuple[tuple[int, int], list[str]]] = []
    try:
        is_new = True
        while is_new:
            folders = []
            for name in os.listdir(fd):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield fd, name, status
                if stat.S_ISDIR(status.st_mode):
                    folders.append(name)
            levels.append((_identity(fd), folders))
            is_new = _moved_on(fd, levels)
    finally:
        os.close(fd)


def _moved_on(fd: int, levels: list[tuple[tuple[int, int], list[str]]]) -> bool:
    """Lets `fd` be the next folder that is not done, up or down from where it is; False at the end."""
    while levels:
        left = levels[-1][1]
        if left:
            if _entered(fd, left.pop()):
                return True
            continue
        levels.pop()
        if levels:
            _become(fd, os.open("..", _READ, dir_fd=fd))
            if _identity(fd) != levels[-1][0]:
                raise OSError(errno.ESTALE, "a folder was moved while it was walked through")
    return False


def _become(fd: int, other: int) -> None:
    os.dup2(other, fd, inheritable=False)
    os.close(other)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _entered(fd: int, name: str) -> bool:
    try:
        _become(fd, os.open(name, _READ, dir_fd=fd))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return False
        raise
    return True


def _emptied(fd: int) -> list[bytes]:
    """Unlinks all but the folders, and returns those."""
    folders = []
    with os.scandir(os.fsencode(f"/proc/self/fd/{fd}")) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=fd)
    return folders


def _lifted(folder: int, fd: int, inner: bytes, free: str) -> str:
    denied = False
    while True:
        try:
            os.rename(inner, os.fsencode(free), src_dir_fd=fd, dst_dir_fd=folder)
            return free
        except FileNotFoundError:
            return free
        except PermissionError:
            # Whoever is not root moves only folders that he may write to (rename(2)); an overlay's own has mode 0.
            if denied:
                raise
            denied = True
            os.chmod(inner, 0o700, dir_fd=fd)
        except OSError as error:
            # A leftover of a removal that was cut off: it goes with the next one of its name; take another.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise
            free += "~"


def _rmdir(folder: int, name: str, *, may_stay: bool) -> bool:
    """False where another remover has just put a folder in its place."""
    try:
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.ENOTEMPTY or not may_stay:
            raise
        return False
    return True
