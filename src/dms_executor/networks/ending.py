"""What a vanished shim may leave of a network: its program."""

from __future__ import annotations

from pathlib import Path

from ..supervisor.address import ShimAddress, kill_shim

__all__ = ["LEFTOVERS", "kill_network"]

LEFTOVERS = ("network.log", "network.pid", "network.sock")
"""Files in an execution's folder, beside its records."""
_PROGRAM_GONE = 5.0  # seconds for a killed program


def kill_network(folder: Path, boot: str) -> None:
    """Ends the network program, which dies with its shim wherever the kernel's parent-death signal holds. Blocks."""
    try:
        words = (folder / "network.pid").read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return
    if len(words) == 3 and words[0] == boot and words[1].isdecimal() and words[2].isdecimal():
        kill_shim(ShimAddress(boot=boot, pid=int(words[1]), start_time=int(words[2])), _PROGRAM_GONE)
