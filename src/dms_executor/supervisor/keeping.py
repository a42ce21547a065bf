"""The shims of one engine's executions, as every engine asks them whose jobs a shim keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ..engine import Execution, Exit, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning
from ..processes import boot_id
from . import shim as shims
from .address import ShimAddress, address_of, process_gone
from .record import decode_exit, read_exit

__all__ = ["Keeping"]

_RECONNECTS = 3
_GONE = 5.0  # seconds for a shim to end once it was told to


class Keeping:
    """Belongs to one event loop. `last_words`: what there is to say of a shim that ended without a record; blocks."""

    def __init__(self, engine: str, last_words: Callable[[Path], str]) -> None:
        self._engine = engine
        self._last_words = last_words
        self._shims: dict[str, shims.Shim] = {}
        self._log = logging.getLogger(f"dms_executor.{engine}")

    def close(self) -> None:
        """Ends the connections; jobs that run go on."""
        for shim in self._shims.values():
            shim.close()
        self._shims.clear()

    def add(self, x: Execution, shim: shims.Shim) -> shims.Shim:
        """The one that was just made."""
        self._shims[x.token] = shim
        return shim

    async def known(self, x: Execution) -> shims.Shim | None:
        """The connection that this process has already."""
        return await self.connection(x) if x.token in self._shims else None

    async def connection(self, x: Execution) -> shims.Shim | None:
        """None where the shim is gone. Raises `EngineUnreachable`."""
        shim = self._shims.get(x.token)
        if shim is not None and shim.is_gone:
            self.forget(x, shim)
            shim = None
        if shim is None:
            shim = await shims.connect(x.folder)
            if shim is not None:
                other = self._shims.setdefault(x.token, shim)
                if other is not shim:
                    shim.close()
                return other
        return shim

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """The exit record; without one, once nobody is left to write it, an `Exit` that says `lost`."""
        for _ in range(_RECONNECTS):
            shim = await self.connection(x)
            if shim is None:
                break
            if await shim.ended():
                if shim.record:
                    return decode_exit(shim.record, x.folder)
                break
            # The connection ended, and perhaps not the shim.
            self.forget(x, shim)
        record = await asyncio.to_thread(read_exit, x.folder)
        if record is None:
            address = address_of(h)
            if address is not None:  # it lives and does not answer
                await process_gone(address)
            record = await asyncio.to_thread(read_exit, x.folder)
        if record is not None:
            return record
        words = await asyncio.to_thread(self._last_words, x.folder)
        return Exit(lost=f"the shim ended without an exit record{words}", finished_at=datetime.now(UTC))

    async def signal(self, x: Execution, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        shim = await self.connection(x)
        if shim is None:
            raise ExecutionNotRunning("its shim is gone", execution_id=x.id)
        await shim.signal(signum)

    async def stop(self, x: Execution, signum: int, grace: float) -> None:
        """The shim carries it out, caller or not."""
        shim = await self.connection(x)
        if shim is not None:
            await shim.stop(signum, grace, "stop")

    async def stopped(self, x: Execution, h: Handle | None) -> ShimAddress | None:
        """Ends the shim the gentle way; its address, where anybody knows it."""
        shim = await self.connection(x)
        self._shims.pop(x.token, None)
        if shim is None:
            return address_of(h)
        address = ShimAddress(boot=await asyncio.to_thread(boot_id), pid=shim.pid, start_time=shim.start_time)
        try:
            # Before the go a stop makes it clean up and exit, afterwards it kills the job and writes the record.
            async with asyncio.timeout(_GONE):
                await shim.stop(9, 0)
                await shim.ended()
        except (TimeoutError, EngineUnreachable):
            told = {"execution_id": x.id, "engine": self._engine}
            self._log.warning("a shim did not end when it was told to", extra=told)
        finally:
            shim.close()
        return address if shim.pid else address_of(h)

    def forget(self, x: Execution, shim: shims.Shim) -> None:
        """Closes that connection."""
        if self._shims.get(x.token) is shim:
            del self._shims[x.token]
        shim.close()
