"""Keepers: one command at a later time, though nobody who asked for it is alive then (docs/protocol.md, section 7)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ..errors import StartFailed
from ..processes import open_process
from ..threads import finished
from . import frames, spawning

__all__ = ["Keeper", "spawn", "stop"]

_DEADLINE = 10.0  # seconds for a fork


class Keeper(msgspec.Struct, frozen=True, kw_only=True):
    """Finds a keeper again. `start_time`: field 22 of `/proc/<pid>/stat`, since numbers are used again."""

    pid: int
    start_time: int


async def spawn(
    folder: Path | None,
    seconds: float,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    cgroup_join: Sequence[str] = (),
) -> Keeper:
    """Leaves a process behind that executes `argv` (absolute) after `seconds`, asleep or suspended time included.

    What the command writes goes to `keeper.log` in `folder`. `cgroup_join`: `cgroup.procs` files of groups that outlive
    the caller's. Raises `StartFailed`, `ResourcesUnavailable`, `EngineUnavailable`.
    """
    path = await spawning.spawned_shim()
    joins = [word for group in cgroup_join for word in ("-j", group)]
    command = [path, "keeper", *joins, f"{max(0.0, seconds):.9f}", *argv]
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise spawning.mapped(error, "cannot start a keeper") from error
    with ours:
        ours.setblocking(False)
        with theirs:
            output = await finished(os.close, _output, folder)
            try:
                pid = spawning.spawn(path, command, dict(environment), {0: theirs.fileno(), 1: output, 2: output})
            finally:
                os.close(output)
        try:
            return await _ready(ours)
        finally:
            spawning.forget(pid)


def _output(folder: Path | None) -> int:
    """Blocking."""
    if folder is None:
        return os.open(os.devnull, os.O_WRONLY)
    try:
        return os.open(folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise spawning.mapped(error, "cannot write keeper.log") from error


async def _ready(connection: socket.socket) -> Keeper:
    loop, decoder = asyncio.get_running_loop(), frames.Decoder()
    try:
        async with asyncio.timeout(_DEADLINE):
            while data := await loop.sock_recv(connection, 256):
                for kind, payload in decoder.feed(data):
                    if kind == frames.READY:
                        _, pid, start_time = struct.unpack("<IIQ", payload)
                        return Keeper(pid=pid, start_time=start_time)
    except (TimeoutError, OSError, frames.ProtocolError) as error:
        raise StartFailed(f"the keeper did not come up: {error}") from error
    raise StartFailed("the keeper ended before it was ready")


async def stop(keeper: Keeper) -> None:
    """Ends a keeper that still waits; no error if it is gone or at work."""
    await asyncio.to_thread(_stop, keeper)


def _stop(keeper: Keeper) -> None:
    fd = open_process(keeper.pid, keeper.start_time)
    if fd is None:
        return
    try:
        # One whose time has come is at work as an owner of its own, and ends by itself.
        if _sleeps(keeper.pid):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
    finally:
        os.close(fd)


def _sleeps(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:2] == [b"keeper"]
