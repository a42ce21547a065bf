"""How a VM's shim comes to be: with a network where the job has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine import Execution
from ..networks import Program
from ..networks.connecting import connect_ports, connected, with_ports
from ..networks.trying import Networks
from ..supervisor import shim as shims
from ..supervisor import spec
from ..threads import finished
from ..types import PortMapping
from .launch import Launch
from .network import ROOM, make_room

__all__ = ["born"]


async def born(
    x: Execution, ports: Sequence[PortMapping], networks: Networks, assembled: Callable[[spec.Network | None], Launch]
) -> tuple[shims.Shim, list[PortMapping]]:
    """The shim, waiting for its go, and the ports that it has. `assembled` blocks."""

    async def launch(program: Program | None, ports: Sequence[PortMapping]) -> shims.Shim:
        network = connected(program, ROOM, ports, None) if program is not None else None
        told = await finished(Launch.close, assembled, network)
        try:
            shim = await shims.create(x.folder, told.spec)
        finally:
            told.close()
        try:
            if program is not None:
                await connect_ports(x.folder, program, ports)
        except BaseException:
            shim.close()  # it has not got its go, and ends
            raise
        return shim

    if x.request.network != "user":
        return await launch(None, []), []
    await make_room()
    return await with_ports(ports, networks.program, networks.engine, launch)
