"""The `firecracker` engine: each job in a microVM of its own by Firecracker. Most of it is `MicrovmEngine`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..engine import Channel, Command, Execution, Exit, Handle, Prepared, Report
from ..errors import ExecutorError, NotSupported
from ..images.params import ImageParams
from ..microvm import kernel as kernels
from ..microvm.drives import Drives
from ..microvm.files import GuestFiles
from ..microvm.kernel import Kernel
from ..microvm.launch import Launch, Monitor
from ..microvm.network import GuestNetwork
from ..microvm.plan import FOLDER, Plan
from ..microvm.saving import SavingEngine
from ..microvm.settings import vm_memory
from ..microvm.standing import is_standing
from ..microvm.warm import Template
from ..threads import finished
from ..types import ExecutionRequest, Output, Probe
from .api import Api
from .config import Machine
from .host import DEAF, Host, can_save, prepare_host, release_of
from .launch import monitor_again, monitor_of
from .machine import machine_of
from .network import NETWORK
from .place import api_of
from .raw import as_told, assemble_raw, check_raw, granted_files, prepare_raw
from .spec import FirecrackerParams, FirecrackerSettings, checked_params, checked_settings
from .template import is_worth_keeping, template_of

__all__ = ["FirecrackerEngine"]


class FirecrackerEngine(SavingEngine[FirecrackerSettings, Host]):
    """See the module."""

    name: ClassVar[str] = "firecracker"
    rank: ClassVar[int] = 30
    params: ClassVar[type[msgspec.Struct]] = FirecrackerParams
    settings: ClassVar[type[msgspec.Struct]] = FirecrackerSettings
    modules: ClassVar[tuple[str, ...]] = (
        "virtio_mmio",
        "virtio_blk",
        "vmw_vsock_virtio_transport",
        "overlay",
        "?crc32c_generic",
        "erofs",
    )
    guest_network: ClassVar[GuestNetwork] = NETWORK

    async def validate(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`, `EngineUnavailable`."""
        params = self._read_params(request.engine_spec.params)
        await asyncio.to_thread(granted_files, params, self._context.policy, self._refused)
        if not params.is_raw:
            await super().validate(request)
            return
        check_raw(request, self._settings, self._context.policy)
        await self._ready()

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """As of every microVM; of a machine of the user's own the files are granted."""
        params = self._params_of(x)
        if not params.is_raw:
            return await super().prepare(x, report)
        policy, cache = self._context.policy, self._cache("kernels")
        return await prepare_raw(x, params, self._settings, policy, self._refused, cache)

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """The shim, waiting for its go."""
        raw = p.state.get("raw")
        if raw is None:
            return await super().create(x, p)
        host, params = await self._ready(), self._params_of(x)
        shim = await self._keeping.known(x)
        if shim is None:
            launch = await finished(
                Launch.close,
                assemble_raw,
                x,
                raw,
                params,
                host=host,
                context=self._context,
                settings=self._settings,
            )
            shim = await self._made(x, launch)
        address = msgspec.to_builtins(await self._address(shim))
        return Handle(state={**address, "raw": True}, engine_ids={"shim": str(shim.pid), "accelerator": "kvm"})

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """The exit record; of a machine of the user's own, that it ended."""
        exit = await super().watch(x, h)
        return as_told(exit) if h.state.get("raw") else exit

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """As of every microVM; a machine of the user's own has no outputs."""
        return [] if h.state.get("raw") else await super().collect(x, h, exit)

    async def exec(self, x: Execution, h: Handle, command: Command) -> Channel:
        """Raises `StartFailed`, `ExecutionNotRunning`, `NotSupported`."""
        self._check_has_agent(x, h, "exec")
        return await super().exec(x, h, command)

    @asynccontextmanager
    async def _entered(self, x: Execution, h: Handle) -> AsyncIterator[GuestFiles]:
        self._check_has_agent(x, h, "copy")
        async with super()._entered(x, h) as files:
            yield files

    async def probe(self) -> Probe:
        """As of every microVM, and what this release of Firecracker cannot do."""
        found = await super().probe()
        if not found.usable:
            return found
        host = await self._ready()
        has = {"snapshot": can_save(host), "pause": release_of(host.version) != DEAF}
        missing = {name for name, is_there in has.items() if not is_there}
        return msgspec.structs.replace(found, capabilities=found.capabilities - missing)

    async def snapshot(self, x: Execution, p: Prepared, h: Handle) -> None:
        """As of every microVM. Raises `NotSupported` also where this release would lose the guest."""
        self._check_has_agent(x, h, "snapshot")
        host = await self._ready()
        if not can_save(host):
            why = f"{host.version} loses a guest that is saved"
            mend = "Use Firecracker 1.10 or a later release, but not 1.16"
            raise NotSupported(why, engine=self.name, what="snapshot", mend=mend, execution_id=x.id)
        await super().snapshot(x, p, h)

    async def pause(self, x: Execution, h: Handle) -> None:
        """Stops the guest's processors, then freezes the VM's cgroup. Raises `ApiRefused`, `EngineUnreachable`,
        `NotSupported`.
        """
        host = await self._ready()
        if release_of(host.version) == DEAF:
            what = f"a guest of {host.version} hears nothing more once it was paused and resumed"
            raise NotSupported(what, engine=self.name, what="pause", mend="Use another release", execution_id=x.id)
        if await asyncio.to_thread(is_standing, host, self._group(host, x)):
            return  # and answers no call
        await (await self._api(x)).pause()
        try:
            await super().pause(x, h)
        except BaseException:
            with contextlib.suppress(ExecutorError):
                await self.resume(x, h)
            raise

    async def resume(self, x: Execution, h: Handle) -> None:
        """Thaws it, then lets the processors go on. Raises `ApiRefused`, `EngineUnreachable`."""
        await super().resume(x, h)
        api = await self._api(x)
        if (await api.describe()).state == "Paused":
            await api.resume()

    def _check_has_agent(self, x: Execution, h: Handle, what: str) -> None:
        if h.state.get("raw"):
            raise NotSupported(
                f"nobody of ours is in a machine of your own, for {what}",
                engine=self.name,
                what=what,
                mend="Name an image",
                execution_id=x.id,
            )

    async def _api(self, x: Execution) -> Api:
        return Api(await asyncio.to_thread(api_of, x.folder / FOLDER))

    def _read_settings(self, settings: Any) -> FirecrackerSettings:
        return checked_settings(settings)

    async def _prepare_host(self) -> Host:
        return await prepare_host(self._settings)

    def _version(self, host: Host) -> str:
        return f"{host.version} ({Path(host.jailer).name if host.jailer else 'not jailed'})"

    def _read_params(self, params: dict[str, Any]) -> FirecrackerParams:
        return checked_params(params)

    def _params_of(self, x: Execution) -> FirecrackerParams:
        return self._read_params(x.request.engine_spec.params)

    async def _kernel(self, params: ImageParams) -> Kernel:
        grant = None
        if isinstance(params, FirecrackerParams):
            grant, _, _ = await asyncio.to_thread(granted_files, params, self._context.policy, self._refused)
        if grant is None:
            return await super()._kernel(params)
        return await kernels.find_granted(grant, self._cache("kernels"))

    async def _warmed(self, x: Execution, plan: Plan, report: Report) -> Plan:
        host, memory = await self._ready(), vm_memory(plan.limits.memory, self._settings)
        if not await asyncio.to_thread(is_worth_keeping, host, self._params_of(x), memory, self._context.state_dir):
            return plan
        return await super()._warmed(x, plan, report)

    def _template(self, x: Execution, host: Host, plan: Plan, drives: Drives) -> Template:
        machine = self._machine(x, plan, drives)
        return template_of(machine, host, plan, self._settings.cgroup_parent, self._context.state_dir)

    def _machine(self, x: Execution, plan: Plan, drives: Drives) -> Machine:
        writable = [not drive.read_only for drive in drives.files]
        return machine_of(plan, writable, x.request.network == "user", self._params_of(x), self._settings)

    def _machine_state(self, host: Host, plan: Plan) -> dict[str, Any]:
        return {"version": host.version}  # Firecracker itself knows the machine that it saved

    def _restored(
        self, x: Execution, host: Host, machine: dict[str, Any], launch: Launch, plan: Plan, drives: Drives
    ) -> Monitor:
        return monitor_again(x, host, launch, drives)

    def _monitor(self, x: Execution, host: Host, launch: Launch, plan: Plan, drives: Drives) -> Monitor:
        machine = self._machine(x, plan, drives)
        return monitor_of(x, host, launch, plan, drives, machine, self._context.state_dir)
