"""Networks of the daemon's, and the ports that it publishes.

Host ports are chosen here and not by the daemon, which chooses at the start only, when the record is written. A port is
held by its name until the daemon listens: whoever else starts a job of ours meanwhile is given another.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Network/operation/NetworkInspect
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import EngineUnreachable, InvalidRequest
from ..networks import Reservation, reserve
from ..networks.ports import check_ports
from ..threads import finished
from ..types import ExecutionRequest, PortMapping
from .client import ApiError, Client
from .dialect import Dialect

__all__ = ["Ports", "check_network", "exposed", "published"]

# https://github.com/moby/moby/blob/v20.10.24/daemon/names/names.go
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_BUILT_IN = ("none", "host")
_LEADING = ("bridge", "overlay")


async def check_network(request: ExecutionRequest, client: Client, dialect: Dialect) -> None:
    """Raises `InvalidRequest` for a network that the daemon does not have, and for ports that would lead nowhere."""
    network = request.network
    is_known = network in _BUILT_IN or network in dialect.own_networks
    driver = network if is_known else await _driver(network, client, dialect)
    if not request.ports:
        return
    if driver not in _LEADING and driver not in dialect.own_networks:
        raise InvalidRequest(
            f"ports of network {network!r} lead nowhere",
            path="$.ports",
            mend="Ask for network 'bridge', or one like it",
        )
    check_ports(request.ports)


async def _driver(network: str, client: Client, dialect: Dialect) -> str:
    missing = InvalidRequest(
        f"the daemon has no network {network!r}", path="$.network", mend=f"{dialect.engine} network create {network}"
    )
    if not _NAME.fullmatch(network):
        raise missing
    try:
        return str((await client.get(f"/networks/{network}"))["Driver"])
    except ApiError as error:
        if error.status == 404:
            raise missing from error
        raise EngineUnreachable(error.message) from error


class Ports:
    """Those of this process's executions that are not yet started."""

    def __init__(self) -> None:
        self._reserved: dict[str, Reservation] = {}

    async def reserve(self, token: str, ports: Sequence[PortMapping]) -> list[PortMapping]:
        """With every host port filled in. Raises `ResourcesUnavailable`."""
        if not ports:
            return []
        self.release(token)
        self._reserved[token] = await finished(Reservation.close, reserve, ports)
        return self._reserved[token].ports

    def release(self, token: str) -> None:
        """The daemon listens there, or never will. Idempotent."""
        reservation = self._reserved.pop(token, None)
        if reservation is not None:
            reservation.close()

    def close(self) -> None:
        """Of all."""
        for token in list(self._reserved):
            self.release(token)


def exposed(ports: Sequence[PortMapping]) -> dict[str, Any]:
    """`ExposedPorts` of the create call."""
    return {f"{port.container_port}/{port.protocol}": {} for port in ports}


def published(ports: Sequence[PortMapping]) -> dict[str, list[dict[str, str]]]:
    """`HostConfig.PortBindings` of it."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        host = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(host)
    return bindings
