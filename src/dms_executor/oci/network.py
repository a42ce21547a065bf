"""The network `user` of a job: what the shim is told of it, and how the ports get to the program that has it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, NotSupported, ResourcesUnavailable, StartFailed
from ..networks import ADDRESS, Program, answers_remapped, find_program, reserve
from ..networks.programs import API_SOCKET
from ..programs import ENVIRONMENT
from ..supervisor import spec, tether
from ..types import PortMapping
from .spec import OciSettings

__all__ = ["NAMESPACE", "SYSFS", "connect_ports", "connected", "is_taken", "program_for"]

NAMESPACE = "network"
"""The job's network namespace: a file in the room."""
SYSFS = "sys"
"""In the room, for a job whose user namespace may not mount one: a `/sys` of its network namespace, or the host's."""
_READY = "network-ready"
_FAILED = "the network program"  # docs/protocol.md, section 2: how a shim's FAILED begins then
_ANSWER = 10.0  # seconds for slirp4netns to listen
_LINE = 4096
_VERSIONS: dict[tuple[str, int], str] = {}


async def program_for(ports: Sequence[PortMapping], settings: OciSettings) -> tuple[Program, list[PortMapping]]:
    """The program, and the ports as it can carry them. Raises `NotSupported`."""
    try:
        program = await asyncio.to_thread(find_program, settings.network_program)
    except EngineUnavailable as error:
        raise _lacking(f"network 'user' here: {error.message}", "$.network", error.mend or "") from error
    old = program.kind == "pasta" and not answers_remapped(await _version(program.path))
    wanted = [_carried(program, old, port, f"$.ports[{index}]") for index, port in enumerate(ports)]
    return program, wanted


def _carried(program: Program, old: bool, port: PortMapping, path: str) -> PortMapping:
    """What these programs lack, each as it was seen: docs/engines.md."""
    slirp = program.kind == "slirp4netns"
    if slirp and ":" in port.host_ip:
        raise _lacking("ports of IPv6 addresses with slirp4netns", f"{path}.host_ip", "Install the package passt")
    address = ipaddress.ip_address(port.host_ip)
    if port.protocol == "tcp" or not (address.is_loopback or address.is_unspecified):
        return port
    if slirp:
        mend = "Install the package passt, or give an address of the host's own"
        raise _lacking("a UDP port of the host's loopback with slirp4netns", f"{path}.host_ip", mend)
    if old and port.host_port not in (0, port.container_port):
        mend = "Give host_port the number of container_port, or install passt from 2024_07_26 on"
        raise _lacking("a UDP port by another number with this old pasta", f"{path}.host_port", mend)
    return msgspec.structs.replace(port, host_port=port.container_port) if old else port


async def _version(path: str) -> str:
    key = (path, (await asyncio.to_thread(os.stat, path)).st_mtime_ns)
    if key not in _VERSIONS:
        done = await tether.run([path, "--version"], environment=ENVIRONMENT, deadline=_ANSWER)
        _VERSIONS[key] = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    return _VERSIONS[key]


def _lacking(what: str, field: str, mend: str) -> NotSupported:
    return NotSupported(f"engine oci cannot give {what}", engine="oci", what=field, mend=mend)


def connected(program: Program, room: str, ports: Sequence[PortMapping], sysfs: str | None) -> spec.Network:
    """A namespace with that program at it."""
    argv = program.argv(f"{room}/{NAMESPACE}", f"{room}/{_READY}", ports)
    return spec.Network(pin=NAMESPACE, sysfs=sysfs, ready=_READY, argv=argv)


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


def is_taken(error: StartFailed, ports: Sequence[PortMapping]) -> bool:
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
