"""A snapshot of Firecracker's as one file, and the start of a machine from it.

The file is the guest's memory, which Firecracker maps for itself alone, as long as that is, and behind it the state of
the devices, which has a file of its own in the place of a start:

    0      the memory, with holes where it is all zeros
    M      the state
    end    u64 M, 8 bytes "dmsfire1"; numbers little-endian

https://github.com/firecracker-microvm/firecracker/blob/main/docs/snapshotting/snapshot-support.md
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
from pathlib import Path
from typing import Any, Final

import msgspec

from ..microvm.holes import copy_without_zeros
from ..microvm.warm import open_snapshot
from .config import Machine
from .place import Place

__all__ = ["MEMORY", "STATE", "brought_back", "pack", "restored"]

MEMORY, STATE = "memory", "state"
_log: Final = logging.getLogger("dms_executor.firecracker")
_MAGIC: Final = b"dmsfire1"
_END: Final = struct.Struct("<Q8s")
_STATE_MOST: Final = 16 << 20
_LOAD: Final = {
    "snapshot_path": STATE,
    "mem_backend": {"backend_type": "File", "backend_path": MEMORY},
    "resume_vm": False,
}


def pack(fd: int, folder: Path, size: int) -> None:
    """Writes what Firecracker saved in `folder` of a machine with `size` bytes of memory to the file `fd`. Blocks.
    Raises OSError, also where that is nothing which a Firecracker writes.
    """
    with open(_saved(folder / MEMORY), "rb") as memory, open(_saved(folder / STATE), "rb") as state:
        if os.fstat(memory.fileno()).st_size != size:
            raise OSError(errno.EINVAL, "the saved memory is not as long as the machine's")
        copy_without_zeros(memory.fileno(), fd)
        os.lseek(fd, size, os.SEEK_SET)
        view = memoryview(state.read(_STATE_MOST) + _END.pack(size, _MAGIC))
        while view:
            view = view[os.write(fd, view) :]


def _saved(path: Path) -> int:
    """The folder is the VMM's: who broke out into it may have left there anything."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path.name} is no file")
    return fd


def restored(place: Place, snapshot: Path, machine: Machine) -> list[tuple[str, str]] | None:
    """Puts the snapshot into that place, with the machine's disks, and gives the calls by which a Firecracker that has
    no machine yet goes on from it there. None: it is gone, or cannot be put there, and the job boots. Blocks.
    """
    fd = open_snapshot(snapshot, is_lent=True)
    if fd is None:
        return None
    try:
        place.write(STATE, _state_in(fd))
        place.lend(snapshot, MEMORY)
        # Where another process renewed it between the two, memory and devices would be of two guests.
        if not os.path.samestat(os.fstat(fd), snapshot.stat()):
            raise FileNotFoundError(errno.ENOENT, "it was renewed meanwhile")
    except OSError as error:
        _log.warning("the snapshot %s cannot be used, the job boots: %s", snapshot.name[:12], error)
        for name in (STATE, MEMORY):
            (place.folder / name).unlink(missing_ok=True)
        return None
    finally:
        os.close(fd)
    calls: list[tuple[str, Any]] = [("PUT /snapshot/load", _LOAD)]
    # Its own files lie there under the names that the snapshot has: this is how its driver hears of their sizes.
    for drive in machine.drives:
        moved = {"drive_id": drive.name, "path_on_host": os.fspath(drive.path)}
        calls.append((f"PATCH /drives/{drive.name}", moved))
    calls.append(("PATCH /vm", {"state": "Resumed"}))
    return [(call, msgspec.json.encode(body).decode()) for call, body in calls]


def brought_back(place: Place, saved: Path) -> list[tuple[str, str]]:
    """Puts a job's own guest, which `dms-vm` saved in this form (native/vm_kept.c), into that place, where its disks
    are as it left them, and gives the calls by which a Firecracker has it, standing still. Blocks. Raises OSError.
    """
    fd = os.open(saved, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        place.write(STATE, _state_in(fd))
    finally:
        os.close(fd)
    place.give(saved, MEMORY)
    return [("PUT /snapshot/load", msgspec.json.encode(_LOAD).decode())]


def _state_in(fd: int) -> bytes:
    """Of one that is cut short nothing: Firecracker says of that what it is."""
    size = os.fstat(fd).st_size
    end = os.pread(fd, _END.size, max(0, size - _END.size))
    if len(end) != _END.size:
        return b""
    memory, magic = _END.unpack(end)
    length = size - _END.size - memory
    return os.pread(fd, length, memory) if magic == _MAGIC and 0 <= length <= _STATE_MOST else b""
