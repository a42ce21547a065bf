"""How a job's shim comes to be: with a user namespace and a network where it has them, the next one spawned ahead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from ..engine import EngineContext, Execution, Prepared
from ..errors import ExecutorError, StartFailed
from ..images import ImageStore
from ..networks import Program
from ..networks.connecting import connect_ports, connected, with_ports
from ..supervisor import shim as shims
from ..threads import finished
from ..types import PortMapping
from .host import Host
from .launch import Launch, assemble
from .plan import Plan
from .room import SYSFS
from .rootless import explained
from .spec import OciSettings, checked_params
from .userns import Userns, refusal, unmapped

__all__ = ["Births", "Born"]


class Born(msgspec.Struct, frozen=True, kw_only=True):
    """What one has beside its shim, as `inspect` tells it."""

    userns: Userns = Userns()
    ports: list[PortMapping] = []


class Births:
    """Of one engine. `known` is by token, of those whose shim was made here."""

    def __init__(self, context: EngineContext, settings: OciSettings, store: ImageStore) -> None:
        self.known: dict[str, Born] = {}
        self._context = context
        self._settings = settings
        self._store = store
        self._spare: shims.Spare | None = None

    def close(self) -> None:
        """The spare shim ends."""
        if self._spare is not None:
            self._spare.close()

    async def restock(self, maps: Sequence[str]) -> None:
        """Spawns the next execution's shim ahead. Without one it is spawned when it is needed."""
        if self._spare is None:
            with contextlib.suppress(ExecutorError):
                self._spare = await shims.spare(maps)

    async def born(self, x: Execution, p: Prepared, plan: Plan, host: Host) -> shims.Shim:
        """With a user namespace where it can have one."""
        why = host.no_userns
        if not why:
            try:
                return await self._with_ports(x, p, plan, host, Userns(), with_userns=True)
            except StartFailed as error:
                if not unmapped(error):
                    raise
                if self._settings.userns == "required":
                    raise refusal(error.message) from error
                why = error.message
        told = Userns(why=why if self._settings.userns != "off" and host.rootless is None else "")
        return await self._with_ports(x, p, plan, host, told, with_userns=False)

    async def _with_ports(
        self, x: Execution, p: Prepared, plan: Plan, host: Host, userns: Userns, *, with_userns: bool
    ) -> shims.Shim:
        if x.request.network != "user":
            return await self._launched(x, p, plan, host, userns, with_userns=with_userns)

        async def launch(program: Program, ports: Sequence[PortMapping]) -> shims.Shim:
            return await self._launched(x, p, plan, host, userns, program, ports, with_userns=with_userns)

        shim, _ = await with_ports(x.request.ports, self._settings.network_program, "oci", launch)
        return shim

    async def _launched(
        self,
        x: Execution,
        p: Prepared,
        plan: Plan,
        host: Host,
        userns: Userns,
        program: Program | None = None,
        ports: Sequence[PortMapping] = (),
        *,
        with_userns: bool,
    ) -> shims.Shim:
        network = None
        if program is not None:
            network = connected(program, host.room, ports, SYSFS if with_userns else None)
        launch = await finished(
            Launch.close,
            assemble,
            x,
            plan,
            checked_params(x.request.engine_spec.params),
            host=host,
            context=self._context,
            settings=self._settings,
            stop_signal=p.stop_signal,
            rootfs=self._store.rootfs,
            with_userns=with_userns,
            network=network,
        )
        ahead, self._spare = self._spare, None
        try:
            shim = await shims.create(x.folder, launch.spec, ahead)
        except StartFailed as error:
            raise (await asyncio.to_thread(explained, error) if host.rootless is not None else error) from error
        finally:
            launch.close()
            if ahead is not None:
                ahead.close()
        if program is not None:
            try:
                await connect_ports(x.folder, program, ports)
            except BaseException:
                shim.close()  # it has not got its go, and ends
                raise
        first = launch.ids.first if launch.ids is not None else None
        self.known[x.token] = Born(userns=Userns(first=first, why=userns.why), ports=list(ports))
        return shim
