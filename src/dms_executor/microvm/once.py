"""A file of a cache that is made once: under another name, synced, then renamed. Who finds it finds it whole.

Whoever makes it holds a lock on the file itself while it bears its other name, so that a second maker, in this process
or another, waits for the first, and what a dead one left is begun anew.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from ..threads import finished

__all__ = ["made_once", "sweep", "unmade", "write_once"]

_LOCKED = 0.05  # seconds between two looks; flock has no event, and the holder's death frees it
_MAKING = ".making"


def write_once(path: Path, make: Callable[[], bytes]) -> bool:
    """Makes `path` of bytes, for its owner alone; False: it is there. Blocks.

    Of two makers at once each makes it whole, and the later rename stands: for what costs little.
    """
    if path.exists():
        os.utime(path)
        return False
    data = make()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.urandom(6).hex()}{_MAKING}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        _commit(fd, scratch, path)
        return True
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


@asynccontextmanager
async def made_once(path: Path) -> AsyncIterator[int | None]:
    """The descriptor of an empty file, to be filled; it is `path` when the block ends well. None: `path` is there.

    Whoever is given the descriptor as well (a helper's stdin) keeps the lock: until its end nobody else begins.
    """
    fd = await finished(_close, _turn, path)
    while fd == -1:
        await asyncio.sleep(_LOCKED)
        fd = await finished(_close, _turn, path)
    if fd is None:
        yield None
        return
    scratch = path.with_name(path.name + _MAKING)
    try:
        yield fd
        await finished(None, _commit, fd, scratch, path)
    except BaseException:
        # Locked still: nobody else's.
        await finished(None, scratch.unlink, missing_ok=True)
        raise
    finally:
        os.close(fd)


def sweep(folder: Path, age: float) -> int:
    """Takes away what nobody asked for in `age` s, and what dead makers left; the bytes that this freed. Blocks.

    A file that has another name, too, is in use under that one, and stays.
    """
    freed = 0
    for path in _files(folder):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.name.endswith(_MAKING):
                freed += _drop_scratch(path)
            elif status.st_nlink == 1 and time.time() - status.st_mtime >= age:
                path.unlink()
                freed += status.st_blocks * 512
    return freed


@contextmanager
def unmade(path: Path) -> Iterator[bool]:
    """True: nobody makes `path`, nor begins to while the block runs. Blocks."""
    scratch = path.with_name(path.name + _MAKING)
    fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        is_ours = _locks(fd) and _is_same(fd, scratch)
        yield is_ours
        if is_ours:
            scratch.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _turn(path: Path) -> int | None:
    """-1: somebody makes it. None: it is there."""
    if path.exists():
        os.utime(path)
        return None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(path.name + _MAKING)
    fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(fd, scratch) and not path.exists():
            os.ftruncate(fd, 0)
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1  # or it was renamed between the two, and the next look finds it


def _commit(fd: int, scratch: Path, path: Path) -> None:
    os.fsync(fd)
    scratch.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _drop_scratch(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_same(fd, path):
            return 0
        path.unlink()
        return os.fstat(fd).st_blocks * 512
    except BlockingIOError:
        return 0  # its maker lives
    finally:
        os.close(fd)


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _close(fd: int | None) -> None:
    if fd is not None and fd >= 0:
        os.close(fd)


def _files(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
