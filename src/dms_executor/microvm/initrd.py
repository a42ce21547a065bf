"""The first root of a guest: the agent as `/init`, and the kernel's modules that it loads.

/init             the guest agent, static
/dms-init         the job's init, static
/modules/<name>.ko    uncompressed, as finit_module(2) takes them
/modules/order    their file names in the order of loading, one a line
/dev/console      what the kernel opens as the agent's streams, before there is a devtmpfs
/dev, /proc, /sys, /root    empty folders to mount at
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import EngineUnavailable
from . import cpio
from .compressed import Corrupt
from .kernel import Kernel
from .modules import Module, ModuleMissing, ModuleSet
from .once import sweep, write_once

__all__ = ["WANTED", "build"]

# In the order of loading, each after what it needs; '?': where the kernel has it. ext4 is what a writable disk has.
WANTED = (
    "virtio_mmio",
    "virtio_blk",
    "?virtio_console",
    "?vmw_vsock_virtio_transport",
    "overlay",
    "?crc32c_generic",
    "erofs",
    "?ext4",
    "?virtio_net",
    "?virtio_rng",
)

_LAYOUT = b"2"  # of the archive; a new one makes every initrd anew
_UNUSED = 30 * 86400.0
_FOLDERS = ("dev", "proc", "sys", "root", "modules")


async def build(
    kernel: Kernel, agent: Path, cache: Path, *, init: Path | None = None, wanted: Sequence[str] = WANTED
) -> Path:
    """The initrd of `agent`, the job's `init` and the modules of `kernel`, an uncompressed cpio archive in `cache`.

    Made once; the same inputs give the same bytes. A kernel without a modules folder has all of it built in. Raises
    `EngineUnavailable` (no agent; a module is missing or damaged).
    """
    return await asyncio.to_thread(_build, kernel, agent, init, cache, tuple(wanted))


def _build(kernel: Kernel, agent: Path, init: Path | None, cache: Path, wanted: tuple[str, ...]) -> Path:
    try:
        programs = {"init": agent.read_bytes()}
        if init is not None:
            programs["dms-init"] = init.read_bytes()
        path = cache / _key(kernel, programs, wanted)
        if write_once(path, lambda: b"".join(cpio.archive(_entries(programs, _modules(kernel, wanted))))):
            sweep(cache, _UNUSED)
    except (ModuleMissing, Corrupt) as error:
        raise EngineUnavailable(
            f"kernel {kernel.release} cannot boot a microVM: {error}",
            mend="Install its modules, or use another kernel: apt-get install linux-image-cloud-amd64",
        ) from error
    except OSError as error:
        raise EngineUnavailable(
            f"no initrd can be made: {error.filename}: {error.strerror}",
            mend="Look at that file, or install the package again",
        ) from error
    return path


def _key(kernel: Kernel, programs: Mapping[str, bytes], wanted: tuple[str, ...]) -> str:
    """Of the inputs. The modules are told by the list that their build writes: to read them all would cost a start."""
    digest = hashlib.sha256(_LAYOUT)
    for name, program in programs.items():
        digest.update(name.encode() + hashlib.sha256(program).digest())
    digest.update(repr((kernel.release, wanted, kernel.modules and os.fspath(kernel.modules))).encode())
    if kernel.modules is not None:
        for name in ("modules.order", "modules.builtin", "kernel"):
            try:
                status = (kernel.modules / name).stat()
            except FileNotFoundError:
                continue
            digest.update(repr((name, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)).encode())
    return digest.hexdigest()


def _modules(kernel: Kernel, wanted: tuple[str, ...]) -> list[Module]:
    return ModuleSet(kernel.modules).in_order(wanted) if kernel.modules is not None else []


def _entries(programs: Mapping[str, bytes], modules: list[Module]) -> list[cpio.Entry]:
    files = [(f"{module.name}.ko", module.data) for module in modules]
    order = "".join(f"{name}\n" for name, _ in files)
    return [
        *(cpio.folder(name) for name in _FOLDERS),
        cpio.device("dev/console", 5, 1),
        *(cpio.file(name, program, 0o755) for name, program in programs.items()),
        cpio.file("modules/order", order.encode()),
        *(cpio.file(f"modules/{name}", data) for name, data in files),
    ]
