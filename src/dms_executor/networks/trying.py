"""Whether a request can have its network here. The program is tried once: a shim with a network, without a job."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, ExecutorError, InvalidRequest, NotSupported
from ..programs import ENVIRONMENT
from ..supervisor import shim as shims
from ..supervisor import spec
from ..types import ExecutionRequest
from .connecting import connected, program_for
from .ports import check_ports
from .programs import MEND, Program, find_program

__all__ = ["Networks"]

_POWERS = frozenset({"network_user", "ports"})
_TUN = "/dev/net/tun"
_KNOWN: dict[tuple[str, int, int, str], str] = {}
"""By program, its time, our network namespace and the room: what is wrong with it."""


class _Lack(msgspec.Struct, frozen=True, kw_only=True):
    why: str
    mend: str = MEND


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can give here. `room`: where its shims mount their tmpfs. `maps`: of an ordinary user's user
    namespace. `program`: as the setting `network_program`. `lack`: why its jobs can have no such network at all.
    """

    engine: str
    program: str | None
    room: str
    maps: tuple[str, str, str, str] | None = None
    lack: str = ""

    async def powers(self) -> tuple[frozenset[str], str]:
        """The capabilities, and how they are had where they lack."""
        if self.lack:
            return frozenset(), ""
        lack = await self._wrong()
        return (frozenset(), lack.mend) if lack is not None else (_POWERS, "")

    async def check(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest` for ports that cannot be, `NotSupported` where nothing here can give them."""
        if request.network != "user" and not request.ports:
            return
        field = "$.network" if request.network == "user" else "$.ports"
        lack = _Lack(why=self.lack) if self.lack else await self._wrong()
        if lack is not None:
            raise NotSupported(
                f"engine {self.engine} cannot give {field} here: {lack.why}",
                engine=self.engine,
                what=field,
                mend=lack.mend,
            )
        if request.network != "user":
            raise InvalidRequest(
                f"ports of network {request.network!r} lead nowhere", path="$.ports", mend="Ask for network 'user'"
            )
        check_ports(request.ports)
        await program_for(request.ports, self.program, self.engine)

    async def _wrong(self) -> _Lack | None:
        """None where it works."""
        try:
            program = await asyncio.to_thread(find_program, self.program)
            key = await asyncio.to_thread(_key, program, self.room)
        except EngineUnavailable as error:
            return _Lack(why=error.message, mend=error.mend or MEND)
        except OSError as error:
            return _Lack(why=str(error))
        if lack := await asyncio.to_thread(_without_device):
            return lack
        if key not in _KNOWN:
            _KNOWN[key] = await _tried(program, self.room, self.maps)
        return _Lack(why=_KNOWN[key]) if _KNOWN[key] else None


def _without_device() -> _Lack | None:
    """Distributions give it to everybody, since it gives nothing but what a namespace's owner has anyway."""
    if not os.path.exists(_TUN):  # noqa: PTH110
        return _Lack(why=f"there is no {_TUN}", mend="As root: modprobe tun")
    if os.access(_TUN, os.R_OK | os.W_OK):
        return None
    return _Lack(why=f"this user may not open {_TUN}", mend=f"As root: chmod 0666 {_TUN} (and by a udev rule, to last)")


def _key(program: Program, room: str) -> tuple[str, int, int, str]:
    return (
        program.path,
        Path(program.path).stat().st_mtime_ns,
        Path("/proc/thread-self/ns/net").stat().st_ino,
        room,
    )


async def _tried(program: Program, place: str, maps: tuple[str, str, str, str] | None) -> str:
    try:
        folder = await asyncio.to_thread(_folder, place)
    except OSError as error:
        return f"no folder to try it in: {error}"
    try:
        told = spec.ShimSpec(
            argv=["/nonexistent"],
            environment=ENVIRONMENT,
            room=place,
            network=connected(program, place, [], None),
            userns=maps,
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


def _folder(place: str) -> Path:
    room = Path(place)
    room.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        return Path(tempfile.mkdtemp(prefix="dms-executor-"))
    except OSError:  # a service may have none for temporary files, but the room must be ours to write to
        return Path(tempfile.mkdtemp(prefix="dms-executor-", dir=room.parent))
