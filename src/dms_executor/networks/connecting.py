"""The network `user` of a job: what the shim is told of it, and how the ports get to the program that has it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import EngineUnavailable, NotSupported, ResourcesUnavailable, StartFailed
from ..programs import ENVIRONMENT
from ..supervisor import spec, tether
from ..threads import finished
from ..types import PortMapping
from .ports import Reservation, reserve
from .programs import ADDRESS, API_SOCKET, Program, answers_remapped, find_program

__all__ = ["NAMESPACE", "READY", "connect_ports", "connected", "program_for", "with_ports"]

NAMESPACE = "network"
"""The job's network namespace: a file in the room."""
READY = "network-ready"
_FAILED = "the network program"  # docs/protocol.md, section 2: how a shim's FAILED begins then
_ANSWER = 10.0  # seconds for slirp4netns to listen
_LINE = 4096
_PORT_TRIES = 5
T = TypeVar("T")
_VERSIONS: dict[tuple[str, int], str] = {}


async def with_ports(
    ports: Sequence[PortMapping],
    setting: str | None,
    engine: str,
    launch: Callable[[Program, Sequence[PortMapping]], Awaitable[T]],
) -> tuple[T, list[PortMapping]]:
    """What `launch` gives, and the ports with which it did, reserved until then.

    A port that was free may be somebody's before the network program has it: then another one is chosen. Raises
    `ResourcesUnavailable` where it was named, `NotSupported`, and what `launch` raises.
    """
    program, wanted = await program_for(ports, setting, engine)
    for left in reversed(range(_PORT_TRIES)):
        reserved = await finished(Reservation.close, reserve, wanted)
        try:
            return await launch(program, reserved.ports), reserved.ports
        except StartFailed as error:
            reserved.close()
            if not left or not await finished(None, _is_taken, error, reserved.ports):
                raise
        finally:
            reserved.close()
    raise AssertionError


async def program_for(
    ports: Sequence[PortMapping], setting: str | None, engine: str
) -> tuple[Program, list[PortMapping]]:
    """The program, and the ports as it can carry them. Raises `NotSupported`."""
    try:
        program = await asyncio.to_thread(find_program, setting)
    except EngineUnavailable as error:
        raise _lacking(engine, f"network 'user' here: {error.message}", "$.network", error.mend or "") from error
    old = program.kind == "pasta" and not answers_remapped(await _version(program.path))
    wanted = [_carried(engine, program, old, port, f"$.ports[{index}]") for index, port in enumerate(ports)]
    return program, wanted


def _carried(engine: str, program: Program, old: bool, port: PortMapping, path: str) -> PortMapping:
    """What these programs lack, each as it was seen: docs/engines.md."""
    slirp = program.kind == "slirp4netns"
    if slirp and ":" in port.host_ip:
        raise _lacking(
            engine, "ports of IPv6 addresses with slirp4netns", f"{path}.host_ip", "Install the package passt"
        )
    address = ipaddress.ip_address(port.host_ip)
    if port.protocol == "tcp" or not (address.is_loopback or address.is_unspecified):
        return port
    if slirp:
        mend = "Install the package passt, or give an address of the host's own"
        raise _lacking(engine, "a UDP port of the host's loopback with slirp4netns", f"{path}.host_ip", mend)
    if old and port.host_port not in (0, port.container_port):
        mend = "Give host_port the number of container_port, or install passt from 2024_07_26 on"
        raise _lacking(engine, "a UDP port by another number with this old pasta", f"{path}.host_port", mend)
    return msgspec.structs.replace(port, host_port=port.container_port) if old else port


async def _version(path: str) -> str:
    key = (path, (await asyncio.to_thread(os.stat, path)).st_mtime_ns)
    if key not in _VERSIONS:
        done = await tether.run([path, "--version"], environment=ENVIRONMENT, deadline=_ANSWER)
        _VERSIONS[key] = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    return _VERSIONS[key]


def _lacking(engine: str, what: str, field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine {engine} cannot give {what}", engine=engine, what=field, mend=mend)


def connected(program: Program, room: str, ports: Sequence[PortMapping], sysfs: str | None) -> spec.Network:
    """A namespace with that program at it."""
    argv = program.argv(f"{room}/{NAMESPACE}", f"{room}/{READY}", ports)
    return spec.Network(pin=NAMESPACE, sysfs=sysfs, ready=READY, argv=argv)


async def connect_ports(folder: Path, program: Program, ports: Sequence[PortMapping]) -> None:
    """Tells a program that does not take ports by its command. Raises `StartFailed`."""
    if not ports or program.forwards_by_command:
        return
    try:
        async with asyncio.timeout(_ANSWER):
            for port in ports:
                await _forward(folder, port)
    except TimeoutError:
        raise StartFailed(f"{_FAILED} does not answer within {_ANSWER:.0f} s") from None


def _is_taken(error: StartFailed, ports: Sequence[PortMapping]) -> bool:
    """Whether it failed for a port that was taken in between. Raises `ResourcesUnavailable` if it was named. Blocks."""
    if not error.message.startswith(_FAILED):
        return False
    try:
        reserve(ports).close()
    except ResourcesUnavailable:
        return True
    return False


async def _forward(folder: Path, port: PortMapping) -> None:
    """https://github.com/rootless-containers/slirp4netns/blob/master/slirp4netns.1.md, "API SOCKET" """
    asked = {
        "execute": "add_hostfwd",
        "arguments": {
            "proto": port.protocol,
            "host_addr": port.host_ip,
            "host_port": port.host_port,
            "guest_addr": ADDRESS,
            "guest_port": port.container_port,
        },
    }
    try:
        reader, writer = await _connected(folder)
        try:
            writer.write(json.dumps(asked).encode())
            writer.write_eof()
            answer = json.loads(await reader.read(_LINE) or b"{}")
        finally:
            writer.close()
    except (OSError, ValueError) as error:
        raise StartFailed(f"{_FAILED} does not take ports: {error}") from error
    if "error" in answer or "return" not in answer:
        raise StartFailed(f"{_FAILED} cannot publish {port.host_ip}:{port.host_port}: {answer.get('error')}")


async def _connected(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By descriptor: a socket's path has at most 108 bytes.
    fd = await asyncio.to_thread(os.open, folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{API_SOCKET}")
    finally:
        os.close(fd)
