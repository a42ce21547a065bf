"""Taking away all that an execution left in its folder outside its records.

Called in any phase and after any death of its caller, so it relies on nothing but names made from the token.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..networks.ending import LEFTOVERS
from ..trees import remove_tree

__all__ = ["clear_folder", "leftovers"]

_LEFTOVERS = (
    *LEFTOVERS,
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
