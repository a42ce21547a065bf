"""A running VM that is saved to disk and goes on later, also in another process: the power `snapshot`.

The shim has it done and ends with it; what goes on is a new shim in the same folder (docs/protocol.md, sections 2, 4
and 10). So nothing of it needs its caller, and a host's reboot is nothing special.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import shutil
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from ..engine import Attached, Channel, Command, EngineContext, Execution, Exit, Handle, Prepared
from ..errors import (
    EngineUnreachable,
    ExecutionNotRunning,
    NotSupported,
    ResourcesUnavailable,
    SnapshotFailed,
    StartFailed,
)
from ..supervisor import shim as shims
from ..supervisor.address import ShimAddress, address_of, process_gone
from ..supervisor.record import read_exit
from ..supervisor.suspended import Suspended, Suspensions, end_suspended, is_suspended
from ..threads import finished
from ..types import PortMapping, Probe, Stats
from .birth import born
from .drives import Drives
from .engine import MicrovmEngine
from .host import VmHost
from .launch import LOADED, Launch, Monitor, assemble
from .plan import FOLDER, Plan
from .settings import OWN_MEMORY, VmSettings, vm_memory
from .standing import is_standing

__all__ = ["SavingEngine"]

S = TypeVar("S", bound=VmSettings)
H = TypeVar("H", bound=VmHost)
_GONE = 60.0  # seconds for a shim to end once it has said all, on a host that has no time for it
_RESERVE = 64 << 20  # bytes that a save leaves free
_KEPT = ("kernel", "initrd")


class SavingEngine(MicrovmEngine[S, H]):
    """An engine of microVMs whose monitor can save a guest."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._suspensions = Suspensions()

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """As of every microVM."""
        async with super().open(context) as engine:
            try:
                yield engine
            finally:
                engine._suspensions.close()

    @abstractmethod
    def _machine_state(self, host: H, plan: Plan) -> dict[str, Any]:
        """What has to be the same when it goes on, as JSON types."""

    @abstractmethod
    def _restored(
        self, x: Execution, host: H, machine: dict[str, Any], launch: Launch, plan: Plan, drives: Drives
    ) -> Monitor:
        """How a monitor is run that goes on with the saved guest. Blocks."""

    async def probe(self) -> Probe:
        """As of every microVM."""
        probe = await super().probe()
        if not probe.usable:
            return probe
        return msgspec.structs.replace(probe, capabilities=probe.capabilities | {"snapshot"})

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """The shim, waiting for its go."""
        handle, host = await super().create(x, p), await self._ready()
        machine = self._machine_state(host, Plan.from_state(p.state))
        return msgspec.structs.replace(handle, state={**handle.state, "machine": machine})

    async def snapshot(self, x: Execution, p: Prepared, h: Handle) -> None:
        """Returns once it is on the disk, and nothing of it runs, also where somebody else has asked for it.

        Raises `ExecutionNotRunning`, `NotSupported`, `ResourcesUnavailable`, `SnapshotFailed`: it goes on as it was;
        `EngineUnreachable`.
        """
        if await asyncio.to_thread(is_suspended, x.folder):
            return
        shim = await shims.connect(x.folder)
        if shim is None:
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        try:
            if shim.phase != "suspending":
                plan = Plan.from_state(p.state)
                memory = vm_memory(plan.limits.memory, self._settings) + OWN_MEMORY
                await finished(None, _make_ready, plan, x.folder / FOLDER, memory)
            await self._suspend(x, shim)
        finally:
            shim.close()

    async def _suspend(self, x: Execution, shim: shims.Shim) -> None:
        host = await self._ready()
        paused = await asyncio.to_thread(is_standing, host, self._group(host, x))
        if paused:
            await self._freeze(x, False)  # what stands still cannot say what it holds
        try:
            await shim.suspend()
        except BaseException:
            if paused:
                await self._freeze(x, True)
            raise
        await shim.ended()
        await _gone(await self._address(shim))

    async def restore(self, x: Execution, p: Prepared, h: Handle) -> Handle:
        """Returns once it runs again, with what finds it then. Raises `ExecutionNotRunning` (nothing is saved),
        `StartFailed`, `ResourcesUnavailable`: it is saved as before.
        """
        async with self._suspensions.alone(x.folder) as saved:
            left = saved.left(x.request.timeout) if saved is not None else None
            if saved is None or (left is not None and left <= 0):
                why = "it is not saved" if saved is None else "its timeout has come"
                raise ExecutionNotRunning(why, execution_id=x.id)
            await _gone(address_of(h))  # its last act is to take the VM's cgroups away
            shim, ports = await self._reborn(x, p, h, saved)
            self._keeping.add(x, shim)
            try:
                await shim.go(LOADED + _GONE)
            except BaseException as error:
                self._keeping.forget(x, shim)
                if isinstance(error, StartFailed):
                    await _gone(await self._address(shim))  # its last act takes away what the next one makes anew
                    if await asyncio.to_thread(is_suspended, x.folder):
                        raise StartFailed(f"it is saved as before: {error.message}", execution_id=x.id) from error
                raise
        self._ports[x.token] = ports
        state = {**h.state, **msgspec.to_builtins(await self._address(shim))}
        ids = {**h.engine_ids, "shim": str(shim.pid)}
        return msgspec.structs.replace(h, state=state, ports=ports, engine_ids=ids)

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """As of every microVM, through all that it is saved meanwhile."""
        while True:
            if not await asyncio.to_thread(is_suspended, x.folder):
                end = await super().watch(x, h)
                if end.lost is None:
                    return end
                if await self._ended(x):
                    return await super().watch(x, h)  # it may have gone on, and left a record, since
            await self._suspensions.over(x.folder, x.request.timeout)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The shim carries it out, caller or not; one that is saved ends at once."""
        while True:
            shim = await self._keeping.connection(x)
            await super().stop(x, h, signum, grace)
            async with self._suspensions.alone(x.folder) as saved:
                if saved is not None:
                    await asyncio.to_thread(end_suspended, x.folder, saved, "stop")
                if saved is not None or shim is not None or await self._keeping.connection(x) is None:
                    return

    async def pause(self, x: Execution, h: Handle) -> None:
        """As of every microVM. Raises `NotSupported` while it is being saved, which it would bring to a halt."""
        await self._check_not_saving(x)
        await super().pause(x, h)
        try:
            await self._check_not_saving(x)  # it began just before
        except NotSupported:
            await super().resume(x, h)
            raise

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        await self._check_runs(x)
        await super().signal(x, h, signum)

    async def stats(self, x: Execution, h: Handle) -> Stats:
        """Raises `ExecutionNotRunning`."""
        await self._check_runs(x)
        return await super().stats(x, h)

    async def attach(self, x: Execution, h: Handle) -> Attached:
        """Raises `ExecutionNotRunning`."""
        await self._check_runs(x)
        return await super().attach(x, h)

    async def exec(self, x: Execution, h: Handle, command: Command) -> Channel:
        """Raises `StartFailed`, `ExecutionNotRunning`."""
        await self._check_runs(x)
        return await super().exec(x, h, command)

    async def _check_not_saving(self, x: Execution) -> None:
        shim = await shims.connect(x.folder)
        if shim is None:
            return
        shim.close()
        if shim.phase == "suspending":
            raise NotSupported(
                "it is being saved to disk",
                engine=self.name,
                what="pause",
                mend="Restore it when it is saved",
                execution_id=x.id,
            )

    async def _check_runs(self, x: Execution) -> None:
        if await asyncio.to_thread(is_suspended, x.folder):
            raise ExecutionNotRunning(
                "it is saved to disk", status="paused", mend="Restore it first", execution_id=x.id
            )

    async def _ended(self, x: Execution) -> bool:
        """Whether it is really over where nobody was found that keeps it: it may have been saved, or gone on since."""
        async with self._suspensions.alone(x.folder) as saved:
            if saved is not None:
                return False
            if await asyncio.to_thread(read_exit, x.folder) is not None:
                return True
            # A shim takes no lock: it may have saved it, once more, while we looked.
            return await self._keeping.connection(x) is None and not await asyncio.to_thread(is_suspended, x.folder)

    async def _reborn(
        self, x: Execution, p: Prepared, h: Handle, saved: Suspended
    ) -> tuple[shims.Shim, list[PortMapping]]:
        """By the ports that it had; where somebody has one of these now that nobody named, by others."""
        host, plan = await self._ready(), await asyncio.to_thread(_kept, Plan.from_state(p.state), x.folder / FOLDER)
        told = functools.partial(
            assemble,
            x,
            plan,
            self._read_params(x.request.engine_spec.params),
            self._terms(host, p),
            self._store.rootfs,
            functools.partial(self._restored, x, host, h.state.get("machine", {})),
            self.guest_network,
            resumed=saved,
        )
        try:
            return await born(x, h.ports or x.request.ports, self._networks(), told)
        except ResourcesUnavailable:
            if all(port.host_port for port in x.request.ports):
                raise
        return await born(x, x.request.ports, self._networks(), told)


async def _gone(address: ShimAddress | None) -> None:
    if address is None:
        return
    try:
        async with asyncio.timeout(_GONE):
            await process_gone(address)
    except TimeoutError as error:
        raise EngineUnreachable(f"the shim {address.pid} does not end") from error


def _kept(plan: Plan, folder: Path) -> Plan:
    """The plan with what `_keep` kept. Blocks."""
    found = {name: os.fspath(folder / name) for name in _KEPT if (folder / name).exists()}
    return msgspec.structs.replace(plan, **found)


def _make_ready(plan: Plan, folder: Path, memory: int) -> None:
    """Sees to the room that a save may take at most, and to what a restore needs. `memory`: the machine's, all of which
    Firecracker writes, and of which QEMU leaves out pages of zeros. Blocks.
    """
    try:
        system = os.statvfs(folder)
        free = system.f_bavail * system.f_frsize
        if free < memory + _RESERVE:
            raise ResourcesUnavailable(
                f"it could not be saved: its memory may take {memory >> 20} MiB, and {free >> 20} MiB are free",
                mend=f"Make room where the state folder is; {_RESERVE >> 20} MiB are left for the output of others",
            )
        _keep(plan, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourcesUnavailable(f"it could not be saved: {error}") from error
        raise SnapshotFailed(f"it could not be saved: {error}", errno=error.errno or 0) from error


def _keep(plan: Plan, folder: Path) -> None:
    """Kernel and initrd beside the disks: caches and packages come and go."""
    for name in _KEPT:
        source, target = Path(getattr(plan, name)), folder / name
        if target.exists():
            continue
        try:
            target.hardlink_to(source)
        except FileExistsError:
            continue  # somebody else saves it, too
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            scratch = target.with_name(f"{name}.tmp")
            shutil.copyfile(source, scratch)
            scratch.rename(target)
