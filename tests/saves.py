"""Saves of running jobs that are in hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dms_executor.supervisor.shim import connect

__all__ = ["until_suspending"]


async def until_suspending(folder: Path, within: float = 60.0) -> None:
    """Until the shim of that execution's folder has a save in hand. `within`: seconds."""
    async with asyncio.timeout(within):
        while True:
            shim = await connect(folder)
            assert shim is not None
            shim.close()
            if shim.phase == "suspending":
                return
            await asyncio.sleep(0.01)
