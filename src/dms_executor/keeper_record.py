"""What a keeper must know: the file that `lifecycle.deadline` writes and `keeper` reads."""

from __future__ import annotations

import msgspec

from .types import Settings

__all__ = ["RECORD", "KeeperRecord"]

RECORD = "keeper.json"
"""The file's name in the execution's folder."""


class KeeperRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which execution, in which state folder, under which settings.

    `boot`, `pid`, `start_time`: where the keeper is to be found, for who takes the execution over; pid 0 before it is
    there.
    """

    state_dir: str
    token: str
    settings: Settings
    boot: str = ""
    pid: int = 0
    start_time: int = 0
