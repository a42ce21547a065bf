"""A snapshot of Firecracker's as one file, and the start of a machine from it.

The file is the guest's memory, which Firecracker maps for itself alone, as long as that is, and behind it the state of
the devices, which has a file of its own in the place of a start:

    0      the memory, with holes where it is all zeros
    M      the state
    end    u64 M, 8 bytes "dmsfire1"; numbers little-endian

https://github.com/firecracker-microvm/firecracker/blob/main/docs/snapshotting/snapshot-support.md
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Final

import msgspec

from ..microvm.holes import copy_without_zeros
from ..microvm.warm import open_snapshot
from .config import Machine
from .place import Place

__all__ = ["MEMORY", "STATE", "pack", "restored"]

MEMORY, STATE = "memory", "state"
_MAGIC: Final = b"dmsfire1"
_END: Final = struct.Struct("<Q8s")
_STATE_MOST: Final = 16 << 20


def pack(fd: int, folder: Path) -> None:
    """Writes what Firecracker saved in `folder` to the file `fd`. Blocks. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(folder / MEMORY, flags), "rb") as memory,
        open(os.open(folder / STATE, flags), "rb") as state,
    ):
        copy_without_zeros(memory.fileno(), fd)
        size = os.fstat(fd).st_size
        os.lseek(fd, size, os.SEEK_SET)
        view = memoryview(state.read(_STATE_MOST) + _END.pack(size, _MAGIC))
        while view:
            view = view[os.write(fd, view) :]


def restored(place: Place, snapshot: Path, machine: Machine) -> list[tuple[str, str]] | None:
    """Puts the snapshot into that place, with the machine's disks, and gives the calls by which a Firecracker that has
    no machine yet goes on from it there. None: it is gone, and the job boots. Blocks. Raises OSError.
    """
    fd = open_snapshot(snapshot, is_lent=True)
    if fd is None:
        return None
    try:
        place.write(STATE, _state_in(fd))
        place.lend(snapshot, MEMORY)
    except FileNotFoundError:
        return None
    finally:
        os.close(fd)
    load = {
        "snapshot_path": STATE,
        "mem_backend": {"backend_type": "File", "backend_path": MEMORY},
        "resume_vm": False,
    }
    calls: list[tuple[str, Any]] = [("PUT /snapshot/load", load)]
    # Its own files lie there under the names that the snapshot has: this is how its driver hears of their sizes.
    for drive in machine.drives:
        moved = {"drive_id": drive.name, "path_on_host": os.fspath(drive.path)}
        calls.append((f"PATCH /drives/{drive.name}", moved))
    calls.append(("PATCH /vm", {"state": "Resumed"}))
    return [(call, msgspec.json.encode(body).decode()) for call, body in calls]


def _state_in(fd: int) -> bytes:
    """Of one that is cut short nothing: Firecracker says of that what it is."""
    size = os.fstat(fd).st_size
    end = os.pread(fd, _END.size, max(0, size - _END.size))
    if len(end) != _END.size:
        return b""
    memory, magic = _END.unpack(end)
    length = size - _END.size - memory
    return os.pread(fd, length, memory) if magic == _MAGIC and 0 <= length <= _STATE_MOST else b""
