"""What there is to say of a VM that ended without telling how: its console and the shim's own complaints."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import msgspec

from ..engine import Exit

__all__ = ["last_words", "told"]

_TAIL = 4096
_LINES = 3
_LONGEST = 600


async def told(exit: Exit, folder: Path) -> Exit:
    """With the console's last words where the engine lost it.

    A guest says what its job used before it says how that ended, be it by SIGKILL: without that word it was `dms-vm`
    which somebody killed, and of the job's end nothing is known.
    """
    killed = exit.signal == signal.SIGKILL and exit.usage.cpu_seconds is None and not exit.killed
    if exit.lost is None and not killed:
        return exit
    if exit.lost is None:
        exit = msgspec.structs.replace(exit, code=None, signal=None, lost="what kept the VM was killed")
    words = await asyncio.to_thread(_console, folder)
    return msgspec.structs.replace(exit, lost=f"{exit.lost}; the guest's console: {words}") if words else exit


def last_words(folder: Path) -> str:
    """As the end of a sentence. Blocks."""
    said = " | ".join(part for part in (_tail(folder / "shim.log"), _console(folder)) if part)
    return f": {said}" if said else ""


def _console(folder: Path) -> str:
    return _tail(folder / "console")


def _tail(path: Path) -> str:
    """The last lines on one line, without what a terminal would act on: a guest may have written anything."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in "".join(c if c.isprintable() else "\n" for c in text).split("\n")]
    return " | ".join([line for line in lines if line][-_LINES:])[-_LONGEST:]
