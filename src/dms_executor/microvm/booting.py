"""A guest whose agent waits and is told nothing, so that a snapshot of it can be taken: `dms-vm -k`.

It runs as a job's VM does, as a user of its own number, in no network, with nothing of the caller's; no shim keeps it:
when we end, however that comes, its report ends, and with it `dms-vm` and the monitor.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..errors import StartFailed
from ..programs import ENVIRONMENT
from ..supervisor import binary, frames, spawning
from .launch import Monitor

__all__ = ["booted"]

_ENDING = 30.0  # seconds for `dms-vm` to kill the monitor
_REPORT, _FOLDER, _CONFIG, _FIRST = 3, 4, 5, 6  # docs/protocol.md, section 10


@asynccontextmanager
async def booted(state_dir: Path, folder: Path, monitor: Monitor) -> AsyncIterator[None]:
    """Its agent is ready in the block, and nothing of it is left behind it. `folder`: where the monitor starts.

    Raises `StartFailed`, and as `spawning.spawn`.
    """
    program = str(await asyncio.to_thread(binary.vm_path, state_dir))
    report, theirs = socket.socketpair()
    opened: list[int] = []
    try:
        with theirs:
            opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            places = {_REPORT: theirs.fileno(), _FOLDER: opened[0], _CONFIG: opened[1]}
            places |= {_FIRST + number: fd for number, fd in enumerate(monitor.passed)}
            argv = [program, "-k", *monitor.options, "--", *monitor.argv]
            pid = spawning.spawn(program, argv, dict(ENVIRONMENT), places)
    except BaseException:
        report.close()
        raise
    finally:
        for fd in opened:
            os.close(fd)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    spawning.on_exit(pid, lambda status: ended.set_result(status) if not ended.done() else None)
    try:
        report.setblocking(False)
        await _ready(report)
        yield
    finally:
        with suppress(OSError):
            report.shutdown(socket.SHUT_RDWR)  # a program that forks may hold our end, too
        report.close()
        await _gone(pid, ended)


async def _ready(report: socket.socket) -> None:
    decoder, loop = frames.Decoder(), asyncio.get_running_loop()
    while data := await loop.sock_recv(report, 4096):
        for kind, payload in decoder.feed(data):
            if kind == frames.INIT_STARTED:
                return
            if kind == frames.INIT_FAILED:
                raise StartFailed(f"the guest did not boot: {frames.error(payload)[1]}")
    raise StartFailed("the guest did not boot")


async def _gone(pid: int, ended: asyncio.Future[int]) -> None:
    """It ends of itself, and takes the monitor along; cancelled, or where it does not, we kill it."""
    try:
        await asyncio.wait([ended], timeout=_ENDING)
    finally:
        if not ended.done():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
