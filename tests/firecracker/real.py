"""The real Firecracker with a guest that needs nothing: a few instructions that wait for ever.

DMS_EXECUTOR_FIRECRACKER, else the one on PATH. It needs a KVM in which the guest's first instructions run, not one in
which Linux boots.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor.firecracker import trial

__all__ = ["has_tap", "needed", "program", "running", "toy_kernel"]

_PROGRAM = os.environ.get("DMS_EXECUTOR_FIRECRACKER") or shutil.which("firecracker")

has_tap = os.geteuid() == 0 and os.access("/dev/net/tun", os.W_OK)
_MAKE_TAP = 'ip tuntap add tap0 mode tap && ip link set tap0 up && exec "$@"'
_IN_NETWORK = ["unshare", "--net", "sh", "-c", _MAKE_TAP, "sh"] if has_tap else []


def program() -> str:
    """Its path, where there is one."""
    return _PROGRAM or ""


def _reason() -> str:
    if _PROGRAM is None:
        return "no firecracker here: put one on PATH, or name it by DMS_EXECUTOR_FIRECRACKER"
    return "" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "no KVM for this user"


needed = pytest.mark.skipif(bool(_reason()), reason=_reason())


def toy_kernel(path: Path) -> Path:
    """`1: jmp 1b`."""
    path.write_bytes(trial.toy_kernel(b"\xeb\xfe"))
    return path


@contextlib.asynccontextmanager
async def running(socket: Path, config: bytes | None = None) -> AsyncIterator[None]:
    """Firecracker with its API on `socket`, in a network of its own with the device tap0 where root can make one."""
    said = socket.with_suffix(".said")
    argv = [*_IN_NETWORK, program(), "--api-sock", str(socket)]
    if config is not None:
        file = socket.with_suffix(".json")
        file.write_bytes(config)
        argv += ["--config-file", str(file)]
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(30):
            while not await _listens(socket):
                assert process.returncode is None, said.read_text()
                await asyncio.sleep(0.02)  # it tells nobody when its socket is there
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        socket.unlink(missing_ok=True)


async def _listens(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True
