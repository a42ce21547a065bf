"""Whether a request can have its network here. The program is tried once: a shim with a network, without a job."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, ExecutorError, InvalidRequest, NotSupported
from ..networks import Program, find_program
from ..networks.ports import check_ports
from ..networks.programs import MEND
from ..programs import ENVIRONMENT
from ..supervisor import shim as shims
from ..supervisor import spec
from ..types import ExecutionRequest
from .host import Host
from .network import connected, program_for
from .spec import OciSettings

__all__ = ["check_network", "network_powers"]

_POWERS = frozenset({"network_user", "ports"})
_TUN = "/dev/net/tun"
_KNOWN: dict[tuple[str, int, int, str], str] = {}
"""By program, its time, our network namespace and the room: what is wrong with it."""


class _Lack(msgspec.Struct, frozen=True, kw_only=True):
    why: str
    mend: str = MEND


_NO_SUCH_NETWORK = _Lack(why="its runtime has no network 'user'")


async def network_powers(settings: OciSettings, host: Host) -> tuple[frozenset[str], str]:
    """The capabilities of jobs whose runtime has such networks, and how they are had where they lack."""
    if "user" not in host.runtime.flavour.networks:
        return frozenset(), ""
    lack = await _lack(settings, host)
    return (frozenset(), lack.mend) if lack is not None else (_POWERS, "")


async def check_network(request: ExecutionRequest, settings: OciSettings, host: Host) -> None:
    """Raises `InvalidRequest` for ports that cannot be, `NotSupported` where nothing here can give them."""
    if request.network != "user" and not request.ports:
        return
    field = "$.network" if request.network == "user" else "$.ports"
    lack: _Lack | None = _NO_SUCH_NETWORK
    if "user" in host.runtime.flavour.networks:
        lack = await _lack(settings, host)
    if lack is not None:
        raise NotSupported(f"engine oci cannot give {field} here: {lack.why}", engine="oci", what=field, mend=lack.mend)
    if request.network != "user":
        raise InvalidRequest(
            f"ports of network {request.network!r} lead nowhere", path="$.ports", mend="Ask for network 'user'"
        )
    check_ports(request.ports)
    await program_for(request.ports, settings)


async def _lack(settings: OciSettings, host: Host) -> _Lack | None:
    """What is wrong; None where it works."""
    try:
        program = await asyncio.to_thread(find_program, settings.network_program)
        key = await asyncio.to_thread(_key, program, host)
    except EngineUnavailable as error:
        return _Lack(why=error.message, mend=error.mend or MEND)
    except OSError as error:
        return _Lack(why=str(error))
    if lack := await asyncio.to_thread(_without_device):
        return lack
    if key not in _KNOWN:
        _KNOWN[key] = await _tried(program, host)
    return _Lack(why=_KNOWN[key]) if _KNOWN[key] else None


def _without_device() -> _Lack | None:
    """Distributions give it to everybody, since it gives nothing but what a namespace's owner has anyway."""
    if not os.path.exists(_TUN):  # noqa: PTH110
        return _Lack(why=f"there is no {_TUN}", mend="As root: modprobe tun")
    if os.access(_TUN, os.R_OK | os.W_OK):
        return None
    return _Lack(why=f"this user may not open {_TUN}", mend=f"As root: chmod 0666 {_TUN} (and by a udev rule, to last)")


def _key(program: Program, host: Host) -> tuple[str, int, int, str]:
    return (
        program.path,
        Path(program.path).stat().st_mtime_ns,
        Path("/proc/thread-self/ns/net").stat().st_ino,
        host.room,
    )


async def _tried(program: Program, host: Host) -> str:
    try:
        folder = await asyncio.to_thread(_folder, host)
    except OSError as error:
        return f"no folder to try it in: {error}"
    try:
        told = spec.ShimSpec(
            argv=["/nonexistent"],
            environment=ENVIRONMENT,
            room=host.room,
            network=connected(program, host.room, [], None),
            userns=host.rootless.maps if host.rootless is not None else None,
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


def _folder(host: Host) -> Path:
    room = Path(host.room)
    room.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        return Path(tempfile.mkdtemp(prefix="dms-executor-"))
    except OSError:  # a service may have none for temporary files, but the room must be ours to write to
        return Path(tempfile.mkdtemp(prefix="dms-executor-", dir=room.parent))
