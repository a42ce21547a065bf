"""How a VM's shim comes to be: with a network where the job has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..engine import EngineContext, Execution
from ..images.params import ImageParams
from ..networks import Program
from ..networks.connecting import connect_ports, connected, with_ports
from ..networks.trying import Networks
from ..supervisor import shim as shims
from ..threads import finished
from ..types import PortMapping
from .drives import Drives
from .host import VmHost
from .launch import Launch, Monitor, assemble
from .network import ROOM, GuestNetwork, make_room
from .plan import Plan
from .settings import VmSettings

__all__ = ["Births"]


class Births:
    """Of one engine. `ports` is by token, of those whose shim was made here. `guest`: of the engine's guests."""

    def __init__(
        self,
        context: EngineContext,
        settings: VmSettings,
        rootfs: Callable[[str], Path],
        guest: GuestNetwork | None,
    ) -> None:
        self.ports: dict[str, list[PortMapping]] = {}
        self._context = context
        self._settings = settings
        self._rootfs = rootfs
        self._guest = guest

    async def born(
        self,
        x: Execution,
        plan: Plan,
        params: ImageParams,
        *,
        host: VmHost,
        stop_signal: int,
        monitor: Callable[[Launch, Plan, Drives], Monitor],
        networks: Networks,
    ) -> shims.Shim:
        """The shim, waiting for its go."""

        async def launch(program: Program | None, ports: Sequence[PortMapping]) -> shims.Shim:
            told = await finished(
                Launch.close,
                assemble,
                x,
                plan,
                params,
                host=host,
                context=self._context,
                settings=self._settings,
                stop_signal=stop_signal,
                rootfs=self._rootfs,
                monitor=monitor,
                guest_network=self._guest,
                network=connected(program, ROOM, ports, None) if program is not None else None,
            )
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
            return await launch(None, [])
        await make_room()
        shim, self.ports[x.token] = await with_ports(x.request.ports, networks.program, networks.engine, launch)
        return shim
