"""A guest's root: a folder of the host as a read-only block image, made without mounting anything and without root.

The format is EROFS, uncompressed: of three that a guest's kernel reads it is made soonest and read soonest
(docs/decisions.md). Owners, modes, times, extended attributes, hard links, device nodes and holes are kept. The folder
may be a stranger's who changes it meanwhile (`erofs.py`), so an input becomes an image in the same way.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidRequest, ResourcesUnavailable, StartFailed
from ..images.store import BLOCK_IMAGE, ImageStore
from ..supervisor import tether
from ..threads import finished
from ..trees import walk
from .once import made_once, sweep

__all__ = ["Inside", "build", "collect", "fingerprint", "lend", "lend_image"]

Inside = Callable[[Sequence[str]], list[str]]

_DEADLINE = 600.0
_PROGRAM = Path(__file__).with_name("erofs.py")


async def build(
    tree: Path, cache: Path, key: str, *, deadline: float = _DEADLINE, inside: Inside | None = None
) -> Path:
    """The image of the folder `tree`: the file `key` in `cache`, made once; `key` must tell what is in the tree.

    A file as `tree` is the file `file` in the image. `deadline` in seconds. `inside`: the command that runs another
    where the tree's owners are what they mean, for a caller who is not root (blocks). Raises `ResourcesUnavailable`
    (the disk is full), `StartFailed` (the tree cannot be read, or the deadline has passed).
    """
    path = cache / key
    try:
        async with made_once(path) as fd:
            if fd is not None:
                await _make(tree, fd, deadline, inside)
    except OSError as error:
        raise ResourcesUnavailable(
            f"no root image can be made in {cache}: {error.strerror}", mend="Free space below the state folder"
        ) from error
    return path


async def lend(
    tree: Path, cache: Path, key: str, place: Path, *, deadline: float = _DEADLINE, inside: Inside | None = None
) -> None:
    """`build`, and gives the image the further name `place`, on the same file system. Idempotent.

    It is in use until that name is removed: a collection meanwhile takes only its name in `cache`. Raises as `build`.
    """
    while True:
        image = await build(tree, cache, key, deadline=deadline, inside=inside)
        with suppress(FileNotFoundError):  # collected between the two
            await finished(None, _link, image, place)
            return


async def lend_image(
    store: ImageStore, digest: str, place: Path, *, deadline: float = _DEADLINE, inside: Inside | None = None
) -> None:
    """`lend` of an image in the store, which its asker has pinned. The block image lies there, and goes with it."""
    tree, cache = store.rootfs(digest), store.folder / digest
    await lend(tree, cache, BLOCK_IMAGE, place, deadline=deadline, inside=inside)


async def collect(cache: Path, age: float) -> int:
    """Takes away the images that nobody has lent or asked for in `age` s; the bytes that this freed."""
    return await asyncio.to_thread(sweep, cache, age)


async def fingerprint(tree: Path) -> str:
    """A key for a folder or a file of the user's own: another one as soon as anything in it changes.

    By what the kernel says of each file; nobody but the kernel sets a ctime. Raises `InvalidRequest`.
    """
    return await asyncio.to_thread(_fingerprint, tree)


async def _make(tree: Path, fd: int, deadline: float, inside: Inside | None) -> None:
    # Its stdin is what it writes to: while it lives it holds the lock, whatever becomes of us.
    argv = [sys.executable, "-I", "-S", str(_PROGRAM), os.fspath(tree)]
    if inside is not None:
        argv = await asyncio.to_thread(inside, argv)
    done = await tether.run(argv, environment={}, deadline=deadline, stdin=fd)
    if done.code == errno.ENOSPC:
        raise ResourcesUnavailable("no space left for a root image", mend="Free space below the state folder")
    if done.code != 0:
        raise StartFailed(
            f"no root image can be made of {os.fspath(tree)!r}: {done.complaint}",
            mend="Look whether all in it can be read, and is at rest",
        )


def _opened(tree: Path) -> int:
    return os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _fingerprint(tree: Path) -> str:
    digest = hashlib.sha256()
    try:
        found = tree.stat()
        if not stat.S_ISDIR(found.st_mode):
            return hashlib.sha256(_line(b"", found)).hexdigest()
        fd = _opened(tree)
        try:
            digest.update(_line(b"", os.fstat(fd)))
            lines = [_line(os.fsencode(name), status) for _, name, status in walk(fd)]
        finally:
            os.close(fd)
    except OSError as error:
        raise InvalidRequest(
            f"{os.fspath(tree)!r} cannot be read: {error.strerror}", mend="Name a folder that can be, and is at rest"
        ) from error
    # A folder gives its names in any order.
    for line in sorted(lines):
        digest.update(line)
    return digest.hexdigest()


def _line(name: bytes, status: os.stat_result) -> bytes:
    words = (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns)
    return hashlib.sha256(name + b"\0" + repr(words).encode()).digest()


def _link(image: Path, place: Path) -> None:
    with suppress(FileExistsError):
        os.link(image, place)
