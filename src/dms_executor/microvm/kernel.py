"""The guest's kernel: the one that is named, or the newest that is installed and suits.

Debian's `linux-image-cloud-amd64` is made for this; a distribution's ordinary kernel does as well, and boots later.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import re
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, InvalidRequest
from ..policy import Grant, reopen
from .bzimage import LIMIT, NotAKernel, is_plain, kernel_release, uncompressed
from .compressed import Corrupt
from .modules import ModuleSet
from .once import sweep, write_once

__all__ = ["FIELD", "NEEDED", "Kernel", "find", "find_granted"]

FIELD = "$.engine_spec.params.kernel_image"

# Without these there is no disk and no root: each is a module or built in.
NEEDED = ("virtio_mmio", "virtio_blk", "overlay", "erofs")

_PACKAGES = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
_UNUSED = 30 * 86400.0  # seconds after which an extracted kernel that nobody asked for goes
_HEAD = 65536  # holds a bzImage's setup sectors, 64 at most
_RELEASE = re.compile(r"[0-9][A-Za-z0-9._+~-]*", re.ASCII)
_MOST_KNOWN = 64
_known: dict[str, str | None] = {}  # the releases that were looked for in whole kernels, by `_identity`


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: uncompressed (x86_64 vmlinux, aarch64 Image). `modules`: its `lib/modules/<release>`, if there is one.

    `release` is what `uname -r` says in it; empty where the file does not tell.
    """

    path: Path
    modules: Path | None
    release: str


async def find_granted(grant: Grant, cache: Path, *, root: Path = Path("/")) -> Kernel:
    """The kernel that a request named, as it was granted; it lies in `cache` then, whatever becomes of its file.

    Its modules are those of `root` alone: what lies beside it was not granted. Raises `InvalidRequest`, `PolicyDenied`.
    """
    with await asyncio.to_thread(reopen, grant, field=FIELD) as granted:
        return await asyncio.to_thread(_find, Path(grant.host_path), cache, root, granted.fd)


async def find(kernel_image: Path | None, cache: Path, *, root: Path = Path("/")) -> Kernel:
    """The kernel in `kernel_image`; None: the newest below `root` that suits, cloud flavours first.

    A compressed one is extracted into `cache` once. Modules lie in the `lib/modules` beside the image's `boot`, else in
    that of `root`. Raises `InvalidRequest` (the named one is none, or not there), `EngineUnavailable` (none is
    installed).
    """
    return await asyncio.to_thread(_find, kernel_image, cache, root)


def _find(kernel_image: Path | None, cache: Path, root: Path, opened: int | None = None) -> Kernel:
    if kernel_image is not None:
        try:
            return _read(kernel_image, cache, root, opened)
        except (NotAKernel, Corrupt) as error:
            raise InvalidRequest(
                f"{str(kernel_image)!r} is no kernel that boots here: {error}",
                path=FIELD,
                mend="Name a vmlinuz of a distribution, or a vmlinux; or leave it out",
            ) from error
        except OSError as error:
            raise InvalidRequest(
                f"{str(kernel_image)!r} cannot be read: {error.strerror}", path=FIELD, mend="Name a file that can be"
            ) from error
    return _installed(cache, root)


def _installed(cache: Path, root: Path) -> Kernel:
    refused = []
    for image in _candidates(root):
        try:
            kernel = _read(image, cache, root)
        except OSError as error:
            refused.append(f"{image}: {error.strerror}")
            continue
        except (NotAKernel, Corrupt) as error:
            refused.append(f"{image}: {error}")
            continue
        missing = [name for name in NEEDED if kernel.modules is None or not ModuleSet(kernel.modules).has(name)]
        if not missing:
            return kernel
        refused.append(f"{image}: without {', '.join(missing)}")
    package = _PACKAGES.get(platform.machine(), "a kernel with virtio")
    said = "; ".join(refused[:5]) or f"none in {root / 'boot'}"
    raise EngineUnavailable(
        f"no installed kernel suits a microVM ({said})",
        mend=f"apt-get install {package}, or name one: the setting or parameter kernel_image",
    )


def _candidates(root: Path) -> list[Path]:
    found = [*root.glob("boot/vmlinuz-*"), *root.glob("lib/modules/*/vmlinuz")]
    return sorted(found, key=_rank, reverse=True)


def _rank(image: Path) -> tuple[bool, list[tuple[int, str]]]:
    """Releases in the order of their numbers: 6.1.0-9 before 6.1.0-10."""
    name = image.parent.name if image.name == "vmlinuz" else image.name
    release = name.removeprefix("vmlinuz-")
    parts = re.findall(r"[0-9]+|[a-z]+", release)
    return "cloud" in release, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read(image: Path, cache: Path, root: Path, opened: int | None = None) -> Kernel:
    """`opened`: what was granted under that name, and is read in its place."""
    # A request's image may be a stranger's: a pipe would hold us for ever.
    place = image if opened is None else f"/proc/self/fd/{opened}"
    fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _HEAD <= status.st_size <= LIMIT:
            raise NotAKernel("not a file, or not of a kernel's size")
        head = file.read(_HEAD)
        if is_plain(head, platform.machine()) and opened is None:
            # A symlink among an installation's names may point elsewhere tomorrow.
            path, release = image.resolve(), _release(status, lambda: head + file.read())
        else:
            path = cache / _identity(status)
            if write_once(path, lambda: _plain(head + file.read())):
                sweep(cache, _UNUSED)
            release = kernel_release(head) or _release(status, path.read_bytes)
    modules = _modules(image if opened is None else None, release, root)
    return Kernel(path=path, modules=modules, release=release or "")


def _plain(data: bytes) -> bytes:
    machine = platform.machine()
    return data if is_plain(data[:_HEAD], machine) else uncompressed(data, machine)


def _release(status: os.stat_result, read: Callable[[], bytes]) -> str | None:
    """What the whole of a kernel tells: to search its 50 MB would cost each start 85 ms."""
    identity = _identity(status)
    if identity in _known:
        return _known[identity]
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    found = _known[identity] = kernel_release(read())
    return found


def _identity(status: os.stat_result) -> str:
    """Of what is in the file: nobody but the kernel sets a ctime, and a digest of 14 MB would cost each start 10 ms."""
    words = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(repr(words).encode()).hexdigest()


def _modules(image: Path | None, release: str | None, root: Path) -> Path | None:
    if release is None or not _RELEASE.fullmatch(release):
        return None
    beside = [] if image is None else [image.parent, image.parent.parent / "lib/modules" / release]
    places = [*beside, root / "lib/modules" / release]
    return next((place for place in places if place.name == release and (place / "kernel").is_dir()), None)
