"""Which process a shim is, from any process and after any restart of its caller."""

from __future__ import annotations

import asyncio
import os
import select
import signal

import msgspec

from ..engine import Handle
from ..processes import boot_id, open_process
from ..typed import known

__all__ = ["ShimAddress", "address_of", "kill_shim", "open_shim", "process_gone", "wait_gone"]


class ShimAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Tells a shim from a later process with the same pid: boot id and start time (clock ticks after boot)."""

    boot: str
    pid: int
    start_time: int


def address_of(h: Handle | None) -> ShimAddress | None:
    """Where a handle says which shim it is."""
    return msgspec.convert(h.state, known(ShimAddress)) if h is not None and "pid" in h.state else None


def open_shim(address: ShimAddress) -> int | None:
    """A pidfd of the shim; None where it is gone. Blocks."""
    return open_process(address.pid, address.start_time) if address.boot == boot_id() else None


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


async def process_gone(address: ShimAddress) -> None:
    """Waits, without a thread, for the end of that very process."""
    fd = await asyncio.to_thread(open_shim, address)
    if fd is None:
        return
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, gone)
    try:
        await gone
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _ended(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, round(seconds * 1000))))


def _resolve(gone: asyncio.Future[None]) -> None:
    if not gone.done():
        gone.set_result(None)
