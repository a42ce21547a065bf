"""Taking away all that an execution left outside its records: processes, cgroups, folders, pins.

Called in any phase and after any death of its caller, so it relies on nothing but names made from the token.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

from ..processes import boot_id, open_process
from ..trees import remove_tree
from .cgroups import Cgroups
from .plan import ShimAddress

__all__ = [
    "clear_folder",
    "empty_group",
    "kill_network",
    "kill_shim",
    "leftovers",
    "open_shim",
    "wait_gone",
]

_LEFTOVERS = (
    "network.log",
    "network.pid",
    "network.sock",
    "bundle",
    "layer",
    "disk.img",
    "runtime",
    "control",
    "going",
    "pid",
    ".pid",
    "exit.tmp",
)

_ROUNDS = 50
_PAUSE = 0.02
_PROGRAM_GONE = 5.0  # seconds for a killed program


def wait_gone(address: ShimAddress, seconds: float) -> bool:
    """Waits for the end of the shim; True once it is gone. Blocks."""
    fd = open_shim(address)
    if fd is None:
        return True
    try:
        return _ended(fd, seconds)
    finally:
        os.close(fd)


def kill_shim(address: ShimAddress, seconds: float) -> bool:
    """Kills the shim if it is that very process; True once it is gone. Blocks."""
    fd = open_shim(address)
    if fd is None:
        return True
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        return _ended(fd, seconds)
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)


def kill_network(folder: Path, boot: str) -> None:
    """Ends the network program, which dies with its shim wherever the kernel's parent-death signal holds. Blocks."""
    try:
        words = (folder / "network.pid").read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return
    if len(words) == 3 and words[0] == boot and words[1].isdecimal() and words[2].isdecimal():
        kill_shim(ShimAddress(boot=boot, pid=int(words[1]), start_time=int(words[2])), _PROGRAM_GONE)


def empty_group(cgroups: Cgroups, group: str) -> list[str]:
    """Kills what is in the job's cgroup and removes it; returns the folders that stayed. Blocks, bounded."""
    for _ in range(_ROUNDS):
        pids = cgroups.processes(group)
        if not pids and not (busy := cgroups.remove(group)):
            return busy
        _thaw(cgroups, group)
        if not cgroups.kill(group):
            _kill_all(cgroups, group, pids)
        time.sleep(_PAUSE)  # a cgroup tells nobody that it got empty (version 1)
    return cgroups.remove(group)


def clear_folder(folder: Path) -> None:
    """Removes all in the execution's folder but request, log and records. Blocks.

    Raises PermissionError where an ordinary user's job made files as another id.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for name in leftovers(fd):
            remove_tree(fd, name)
    finally:
        os.close(fd)


def leftovers(folder: int) -> list[str]:
    """What there is to remove in the opened folder of an execution. Blocks."""
    # What a removal that was cut off had lifted out bears the name and a number.
    return [
        name
        for name in os.listdir(folder)
        if name in _LEFTOVERS or name.partition(".")[0] in ("bundle", "layer", "runtime")
    ]


def open_shim(address: ShimAddress) -> int | None:
    """A pidfd of the shim; None where it is gone. Blocks."""
    return open_process(address.pid, address.start_time) if address.boot == boot_id() else None


def _ended(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, round(seconds * 1000))))


def _thaw(cgroups: Cgroups, group: str) -> None:
    freezer = cgroups.freezer(group)
    if freezer is None:
        return
    try:
        with open(freezer[0], "w", encoding="ascii") as file:
            file.write(freezer[2])
    except OSError:
        return  # gone already


def _kill_all(cgroups: Cgroups, group: str, pids: set[int]) -> None:
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if pid in cgroups.processes(group):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)
