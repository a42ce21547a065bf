"""What engines of microVMs are alike in: each job in a microVM of its own, kept by a shim as every other.

`create` is the shim, waiting for its go; on that it runs `dms-vm`, which starts the monitor and is towards the shim the
init of the job that the guest's agent runs (docs/protocol.md, section 10). So log, records, stops and recovery are the
shim's. An engine says what its host needs, and how its monitor is run.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import msgspec

from ..cgroups.gauge import Gauge
from ..engine import (
    Attached,
    Channel,
    Command,
    Engine,
    EngineContext,
    Execution,
    Exit,
    Handle,
    Observed,
    Prepared,
    Report,
)
from ..errors import EngineUnavailable, ExecutionNotRunning, StartFailed
from ..images import ImageConfig, ImageStore, stop_signal_of
from ..images.asked import grant_image
from ..images.params import ImageParams
from ..images.serving import EngineImages, ServesImages
from ..limits import loosened_by
from ..networks.trying import Networks
from ..policy import Grant, reopen
from ..processes import boot_id
from ..supervisor import binary
from ..supervisor import shim as shims
from ..supervisor.address import ShimAddress
from ..supervisor.attachment import attach
from ..supervisor.keeping import Keeping
from ..supervisor.survey import survey
from ..threads import finished
from ..typed import known
from ..types import ExecutionRequest, Output, PortMapping, Probe, Stats
from ..volumes import Volumes, collect, grant_volumes
from . import check, initrd, rootimage
from .birth import born
from .clearing import clear
from .copies import Copies
from .drives import ROOT, Drives, collect_drives, drives_of, lend_folder, make_drives
from .execs import open_exec
from .host import VmHost, capacity, find_kernel
from .kernel import Kernel
from .launch import Launch, Monitor, Terms, assemble, process_of
from .network import MODULES, ROOM, GuestNetwork
from .plan import FOLDER, Plan
from .settings import VmSettings
from .standing import is_standing, make_stand
from .warm import Template, Templates, own_folder
from .words import last_words, told

if TYPE_CHECKING:
    from ..images.cache import ImageCache

__all__ = ["MicrovmEngine"]

_LIMITS = frozenset({"cpu", "memory", "pids", "disk", "oom_detection"})
_CAPABILITIES = _LIMITS | {"pause", "stats", "attach", "exact_signal", "images", "exec", "exec_kill", "tty", "copy"}
_OUTPUTS = 8 << 30  # bytes that a job may write to its outputs where its request names no disk
_MEND_START = "Check params: cmd, entrypoint, working_directory and user, and that the image has them"


S = TypeVar("S", bound=VmSettings)
H = TypeVar("H", bound=VmHost)


class MicrovmEngine(Copies, ServesImages, Engine, Generic[S, H]):
    """See the module. Opened by `open`; belongs to one event loop.

    `modules`: those of the kernel that a guest loads, in that order: each costs an emulated boot a tenth of a second.
    `guest_network`: what a guest's interface is told.
    """

    modules: ClassVar[tuple[str, ...]]
    guest_network: ClassVar[GuestNetwork]
    keeps_log: ClassVar[bool] = True
    keeps_deadline: ClassVar[bool] = True

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._settings = self._read_settings(context.settings)
        self._store = ImageStore(context.state_dir)
        self._refused = (context.state_dir,)
        self._keeping = Keeping(self.name, last_words)
        self._images = EngineImages(self._settings, self._store)
        self._gauge = Gauge()
        self._ports: dict[str, list[PortMapping]] = {}  # by token, of those whose shim was made here
        warm = own_folder(self._settings.warm_folder, self._cache("warm"))
        self._templates = Templates(warm, self.name) if self._settings.warm else None
        self._host: H | None = None

    @abstractmethod
    def _read_settings(self, settings: Any) -> S:
        """Raises `InvalidRequest`."""

    @abstractmethod
    async def _prepare_host(self) -> H:
        """What the host has for this engine. Raises `EngineUnavailable`."""

    @abstractmethod
    def _version(self, host: H) -> str:
        """The monitor and its accelerator, for the probe."""

    @abstractmethod
    def _read_params(self, params: dict[str, Any]) -> ImageParams:
        """Raises `InvalidRequest`."""

    @abstractmethod
    def _monitor(self, x: Execution, host: H, launch: Launch, plan: Plan, drives: Drives) -> Monitor:
        """How the monitor of this VM is run. Blocks."""

    def _networks(self) -> Networks:
        """What of networks is to be had here."""
        return Networks(engine=self.name, program=self._settings.network_program, room=ROOM)

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """Looks at nothing yet: the first use does."""
        engine = cls(context)
        try:
            yield engine
        finally:
            engine._keeping.close()
            if engine._templates is not None:
                await engine._templates.close()

    async def probe(self) -> Probe:
        """The binary, what really runs a guest, and the kernel that is there for it."""
        try:
            host = await self._ready()
            kernel = await find_kernel(self._settings, self._cache("kernels"))
        except EngineUnavailable as error:
            return Probe(engine=self.name, usable=False, problem=error.message, mend=error.mend)
        given = _CAPABILITIES if host.cgroups.freezer("") else _CAPABILITIES - {"pause", "stats"}
        networks, lacking = await self._networks().powers()
        return Probe(
            engine=self.name,
            usable=True,
            version=f"{self._version(host)}; kernel {kernel.release or kernel.path}",
            capabilities=given | networks,
            capacity=await asyncio.to_thread(capacity, self._context.state_dir),
            mend=lacking,
        )

    async def validate(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`, `EngineUnavailable`."""
        policy = self._context.policy
        params = self._read_params(request.engine_spec.params)
        reference = check.check_request(request, params, policy, self.name)
        await self._ready()
        await self._networks().check(request)
        check.guest_limits(request, self._settings, policy, self.name)
        await asyncio.to_thread(check.check_paths, request, reference, policy, self._refused, self.name)

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """Grants the host paths for good, makes kernel, initrd and the root as block image."""
        policy, request = self._context.policy, x.request
        params = self._read_params(request.engine_spec.params)
        reference = check.check_request(request, params, policy, self.name)
        limits, unenforced = check.guest_limits(request, self._settings, policy, self.name)
        grant, volumes = await finished(None, self._grants, x)
        kernel = await self._kernel(params)
        modules = (*self.modules, *(MODULES if request.network == "user" else ()))
        init = await asyncio.to_thread(binary.init_path, self._context.state_dir)
        agent = await asyncio.to_thread(binary.guest_path)
        first = await initrd.build(kernel, agent, self._cache("initrds"), init=init, wanted=modules)
        await asyncio.to_thread((x.folder / FOLDER).mkdir, 0o700, exist_ok=True)
        image, digest = ImageConfig(), None
        if reference.transport != "rootfs":
            brought = await self._images.bring(x, params, reference, grant, await self._image_cache(), report)
            image, digest = brought.config, brought.digest
            await rootimage.lend_image(self._store, digest, x.folder / FOLDER / ROOT)
        elif grant is not None:
            with await asyncio.to_thread(reopen, grant, field="$.engine_spec.params.image") as granted:
                await lend_folder(granted, self._cache("roots"), x.folder / FOLDER / ROOT)
        most = limits.disk or _OUTPUTS
        await make_drives(volumes, x.folder / FOLDER, self._cache("inputs"), disk=limits.disk, most=most)
        root = None if digest else grant
        plan = Plan(
            image=image,
            kernel=os.fspath(kernel.path),
            initrd=os.fspath(first),
            root=root,
            digest=digest,
            volumes=volumes,
            limits=limits,
        )
        return Prepared(
            state=(await self._warmed(x, plan, report)).to_state(),
            stop_signal=stop_signal_of(image),
            loosened=loosened_by(request),
            unenforced=unenforced,
        )

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """The shim, waiting for its go."""
        host, plan = await self._ready(), Plan.from_state(p.state)
        params = self._read_params(x.request.engine_spec.params)
        process = await asyncio.to_thread(process_of, x, plan, params, self._store.rootfs)
        shim = await self._keeping.known(x)
        if shim is None:
            told = functools.partial(
                assemble,
                x,
                plan,
                params,
                self._terms(host, p),
                self._store.rootfs,
                functools.partial(self._monitor, x, host),
                self.guest_network,
            )
            made, self._ports[x.token] = await born(x, x.request.ports, self._networks(), told)
            shim = self._keeping.add(x, made)
        address = await self._address(shim)
        return Handle(
            state={
                **msgspec.to_builtins(address),
                "volumes": p.state.get("volumes", {}),
                "process": process.to_state(),
                "snapshot": plan.snapshot,
            },
            engine_ids={"shim": str(shim.pid), "accelerator": host.accelerator, **plan.began_from},
            ports=self._ports.get(x.token, []),
        )

    @abstractmethod
    def _template(self, x: Execution, host: H, plan: Plan, drives: Drives) -> Template:
        """The shape of this VM. Blocks."""

    async def _warmed(self, x: Execution, plan: Plan, report: Report) -> Plan:
        """The plan with the snapshot that its guest goes on from, where there is one."""
        if self._templates is None:
            return plan
        drives = await asyncio.to_thread(drives_of, plan.volumes, x.folder / FOLDER)
        with suppress(OSError):  # a file of the shape's is gone: the boot says which
            template = await asyncio.to_thread(self._template, x, await self._ready(), plan, drives)
            snapshot = await self._templates.of(template, report, x.request.prepare_timeout)
            return msgspec.structs.replace(plan, snapshot=snapshot)
        return plan

    async def _made(self, x: Execution, launch: Launch) -> shims.Shim:
        try:
            return self._keeping.add(x, await shims.create(x.folder, launch.spec))
        finally:
            launch.close()

    async def _address(self, shim: shims.Shim) -> ShimAddress:
        return ShimAddress(boot=await asyncio.to_thread(boot_id), pid=shim.pid, start_time=shim.start_time)

    async def start(self, x: Execution, h: Handle) -> datetime:
        """Returns once the guest has booted and its job runs. Raises `StartFailed`."""
        shim = await self._keeping.connection(x)
        if shim is None:
            raise StartFailed(f"the shim is gone: {await asyncio.to_thread(last_words, x.folder)}")
        try:
            return await shim.go()
        except StartFailed as error:
            raise StartFailed(error.message, errno=error.errno, mend=_MEND_START, execution_id=x.id) from error
        finally:
            if self._templates is not None and (snapshot := h.state.get("snapshot")):
                await self._templates.look(snapshot, x.folder, x.id)

    async def survey(self) -> Mapping[str, Observed]:
        """All executions of this state folder that have something of ours."""
        return await self._surveyed(None)

    async def survey_of(self, tokens: Collection[str]) -> Mapping[str, Observed]:
        """Looks into the folders of these alone, however many others have ended."""
        return await self._surveyed(tokens)

    async def _surveyed(self, tokens: Collection[str] | None) -> Mapping[str, Observed]:
        host = await self._ready()

        def is_frozen(token: str) -> bool | None:
            return is_standing(host, host.job_group(self._settings.cgroup_parent, token))

        return await survey(self._context.state_dir / "executions", FOLDER, is_frozen, tokens)

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """The exit record; where the guest was lost, with the last that its console said."""
        return await told(await self._keeping.watch(x, h), x.folder)

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        await self._keeping.signal(x, signum)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The shim carries it out, caller or not."""
        await self._keeping.stop(x, signum, grace)

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """Unpacks the outputs, and fills `results_dir`. Raises `PolicyDenied`, `CopyFailed`.

        A guest that was lost has written none.
        """
        volumes = msgspec.convert(h.state.get("volumes", {}), known(Volumes))
        if exit.lost is None and exit.started_at is not None:
            log = logging.getLogger(f"dms_executor.{self.name}")
            for text in await collect_drives(volumes, x.folder / FOLDER):
                log.warning("outputs: %s", text, extra={"execution_id": x.id, "engine": self.name})
        return await asyncio.to_thread(collect, volumes, x.folder, exit.code)

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """Shim, VM, cgroups, disks, pins. What stays is request, log, console and records."""
        address = await self._keeping.stopped(x, h)
        host = await self._ready()
        await asyncio.to_thread(clear, x, host.cgroups, self._group(host, x), address)
        await asyncio.to_thread(self._store.unpin, x.token)
        self._gauge.forget(x.token)
        self._ports.pop(x.token, None)

    async def pause(self, x: Execution, h: Handle) -> None:
        """Freezes the VM's cgroup; returns once all of it stands still."""
        await self._freeze(x, True)

    async def resume(self, x: Execution, h: Handle) -> None:
        """Thaws it."""
        await self._freeze(x, False)

    async def stats(self, x: Execution, h: Handle) -> Stats:
        """Of the whole VM, as the host's kernel counts it. Raises `ExecutionNotRunning`."""
        host = await self._ready()
        group = self._group(host, x)
        if not await asyncio.to_thread(host.cgroups.processes, group):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        return await asyncio.to_thread(
            self._gauge.read, host.cgroups, group, x.token, own_kernel=True, network=x.request.network
        )

    async def attach(self, x: Execution, h: Handle) -> Attached:
        """Raises `ExecutionNotRunning`."""
        return await attach(x.folder)

    async def exec(self, x: Execution, h: Handle, command: Command) -> Channel:
        """Raises `StartFailed`, `ExecutionNotRunning`."""
        host = await self._ready()
        group, folder = self._group(host, x), self._context.state_dir
        return await open_exec(x, h, command, host=host, group=group, state_dir=folder)

    async def _kernel(self, params: ImageParams) -> Kernel:
        """The one that a job's guest boots. Raises `EngineUnavailable`."""
        return await find_kernel(self._settings, self._cache("kernels"))

    async def prune_images(self, *, age: float, size: int) -> tuple[int, int]:
        """The images of registries, and those made of folders of the user's own."""
        count, freed = await super().prune_images(age=age, size=size)
        for name in ("roots", "inputs"):
            freed += await rootimage.collect(self._cache(name), age)
        if self._templates is not None:
            freed += await self._templates.collect(age)
        return count, freed

    async def _ready(self) -> H:
        if self._host is None:
            self._host = await self._prepare_host()
        return self._host

    async def _image_cache(self) -> ImageCache:
        return self._images.cache(lambda: None)

    def _cache(self, name: str) -> Path:
        return self._context.state_dir / "microvm" / name

    def _grants(self, x: Execution) -> tuple[Grant | None, Volumes]:
        policy, request = self._context.policy, x.request
        params = self._read_params(request.engine_spec.params)
        reference = check.check_request(request, params, policy, self.name)
        return grant_image(reference, policy, self._refused), grant_volumes(request, policy, self._refused)

    def _terms(self, host: H, p: Prepared) -> Terms:
        return Terms(host=host, context=self._context, parent=self._settings.cgroup_parent, stop_signal=p.stop_signal)

    def _group(self, host: VmHost, x: Execution) -> str:
        return host.job_group(self._settings.cgroup_parent, x.token)

    async def _freeze(self, x: Execution, frozen: bool) -> None:
        host = await self._ready()
        try:
            await make_stand(host, self._group(host, x), frozen, engine=self.name)
        except FileNotFoundError as error:
            raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
