"""Host ports that are chosen, and that nobody else gets meanwhile.

A port belongs to whoever listens on it, and the kernel keeps it as long as that socket lives: so the network program's
own socket is the reservation, and nothing has to be freed. What is guarded here is only the time until it listens. A
name in the abstract socket namespace is held for each port: it is the network namespace's own, as ports are, is given
to one holder at a time across processes and users, and ends with its holder. Under that name the port is tried by a
socket that shares with nobody (the programs' share UDP ports, so that two could have the same one).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from ..errors import InvalidRequest, ResourcesUnavailable
from ..types import PortMapping

__all__ = ["Reservation", "check_ports", "reserve"]

_TRIES = 64
_PATIENCE = 5.0  # seconds for another start that is about to take the same port, and may fail
_PAUSE = 0.02
_ANOTHER = "Choose another host_port (0: one is chosen), or a host_ip that this host has"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Reservation:
    """`ports` with every host port filled in, in the order of the request. Close it once the program listens."""

    def __init__(self) -> None:
        self.ports: list[PortMapping] = []
        self._held: list[socket.socket] = []

    def hold(self, name: socket.socket) -> None:
        self._held.append(name)

    def close(self) -> None:
        """Idempotent."""
        while self._held:
            self._held.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def check_ports(ports: Sequence[PortMapping]) -> None:
    """Raises `InvalidRequest` for what is no address, or is asked for twice."""
    asked: dict[tuple[str, int, str], int] = {}
    for index, port in enumerate(ports):
        path = f"$.ports[{index}]"
        try:
            ipaddress.ip_address(port.host_ip)
        except ValueError:
            raise InvalidRequest(
                f"{port.host_ip!r} is no address", path=f"{path}.host_ip", mend="E.g. 127.0.0.1, or 0.0.0.0 for all"
            ) from None
        if port.host_port:
            first = asked.setdefault((port.host_ip, port.host_port, port.protocol), index)
            if first != index:
                raise InvalidRequest(f"it is the same as ports[{first}]", path=path, mend="Leave one of them out")


def reserve(ports: Sequence[PortMapping]) -> Reservation:
    """Raises `ResourcesUnavailable` where a port is in use. Blocks, for seconds at most."""
    reservation = Reservation()
    chosen: dict[int, PortMapping] = {}
    try:
        # In one order for all, so that two that want the same ports never wait for each other.
        for index in sorted(range(len(ports)), key=lambda i: (not ports[i].host_port, ports[i].host_port)):
            port = ports[index]
            chosen[index] = _taken(port, index, reservation) if port.host_port else _found(port, index, reservation)
    except BaseException:
        reservation.close()
        raise
    reservation.ports = [chosen[index] for index in range(len(ports))]
    return reservation


def _taken(port: PortMapping, index: int, reservation: Reservation) -> PortMapping:
    deadline = time.monotonic() + _PATIENCE
    while not _named(port.protocol, port.host_port, reservation):
        if time.monotonic() > deadline:
            raise _in_use(port, index, "another start is about to take it")
        time.sleep(_PAUSE)  # nobody tells when a name gets free
    try:
        _tried(port, port.host_port)
    except PermissionError as error:
        mend = "Choose a host_port from net.ipv4.ip_unprivileged_port_start on (sysctl), or run as root"
        raise _in_use(port, index, error.strerror or str(error), mend) from error
    except OSError as error:
        raise _in_use(port, index, error.strerror or str(error)) from error
    return port


def _found(port: PortMapping, index: int, reservation: Reservation) -> PortMapping:
    for _ in range(_TRIES):
        try:
            number = _tried(port, 0)
        except OSError as error:
            raise _in_use(port, index, error.strerror or str(error)) from error
        if not _named(port.protocol, number, reservation):
            continue
        try:
            # Once more under the name: it may have gone to another start in between.
            _tried(port, number)
        except OSError:
            continue
        return msgspec.structs.replace(port, host_port=number)
    raise _in_use(port, index, "no free port was found")


def _named(protocol: str, number: int, reservation: Reservation) -> bool:
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0dms-executor/port/{protocol}/{number}")
    except OSError as error:
        name.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    reservation.hold(name)
    return True


def _tried(port: PortMapping, number: int) -> int:
    """The number of a port that could be bound a moment ago. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
    with socket.socket(family, _KINDS[port.protocol]) as tried:
        if family == socket.AF_INET6:
            tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":
            # Connections that ended lately do not count, listeners do.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((port.host_ip, number))
        if port.protocol == "tcp":
            tried.listen(1)
        bound: int = tried.getsockname()[1]
        return bound


def _in_use(port: PortMapping, index: int, why: str, mend: str = _ANOTHER) -> ResourcesUnavailable:
    number = port.host_port or "any"
    return ResourcesUnavailable(
        f"$.ports[{index}]: {port.protocol} port {number} of {port.host_ip} cannot be had: {why}", mend=mend
    )
