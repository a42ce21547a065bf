"""Whether a request can have its network here. The program is tried once: a shim with a network, without a job."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from ..errors import EngineUnavailable, ExecutorError, InvalidRequest, NotSupported
from ..networks import Program, find_program
from ..networks.ports import check_ports
from ..networks.programs import MEND
from ..supervisor import shim as shims
from ..supervisor import spec
from ..types import ExecutionRequest
from .network import connected, program_for
from .runtime import ENVIRONMENT
from .spec import ROOM, OciSettings

__all__ = ["check_network", "network_powers"]

_POWERS = frozenset({"network_user", "ports"})
_KNOWN: dict[tuple[str, int, int, str], str] = {}
"""By program, its time, our network namespace and the room: what is wrong with it."""


async def network_powers(settings: OciSettings, networks: frozenset[str]) -> frozenset[str]:
    """The capabilities of jobs whose runtime has those networks."""
    return _POWERS if "user" in networks and not await problem(settings) else frozenset()


async def check_network(request: ExecutionRequest, settings: OciSettings, networks: frozenset[str]) -> None:
    """Raises `InvalidRequest` for ports that cannot be, `NotSupported` where nothing here can give them."""
    if request.network != "user" and not request.ports:
        return
    field = "$.network" if request.network == "user" else "$.ports"
    why = await problem(settings) if "user" in networks else "its runtime has no network 'user'"
    if why:
        raise NotSupported(f"engine oci cannot give {field} here: {why}", engine="oci", what=field, mend=MEND)
    if request.network != "user":
        raise InvalidRequest(
            f"ports of network {request.network!r} lead nowhere", path="$.ports", mend="Ask for network 'user'"
        )
    check_ports(request.ports)
    await program_for(request.ports, settings)


async def problem(settings: OciSettings) -> str:
    """Why it does not work; empty where it does."""
    if os.geteuid() != 0:
        return "an ordinary user's jobs do not have it yet"
    try:
        program = await asyncio.to_thread(find_program, settings.network_program)
        key = await asyncio.to_thread(_key, program, settings)
    except (EngineUnavailable, OSError) as error:
        return error.message if isinstance(error, EngineUnavailable) else str(error)
    if key not in _KNOWN:
        _KNOWN[key] = await _tried(program, settings)
    return _KNOWN[key]


def _key(program: Program, settings: OciSettings) -> tuple[str, int, int, str]:
    return (
        program.path,
        Path(program.path).stat().st_mtime_ns,
        Path("/proc/thread-self/ns/net").stat().st_ino,
        settings.room or ROOM,
    )


async def _tried(program: Program, settings: OciSettings) -> str:
    folder = await asyncio.to_thread(_folder, settings)
    try:
        told = spec.ShimSpec(
            argv=["/nonexistent"],
            environment=ENVIRONMENT,
            room=settings.room or ROOM,
            network=connected(program, settings.room or ROOM, [], None),
            log_cap=1 << 16,
            segment=1 << 14,
        )
        shim = await shims.create(folder, told)
        await shim.stop(9, 0)  # it has not got its go: it takes away what it made, and ends
        await shim.ended()
        shim.close()
    except ExecutorError as error:
        return error.message
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return ""


def _folder(settings: OciSettings) -> Path:
    Path(settings.room or ROOM).mkdir(mode=0o711, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="dms-executor-"))
