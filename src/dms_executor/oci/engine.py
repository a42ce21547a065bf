"""The `oci` engine: containers by crun or runc with no daemon, each kept by a shim of its own.

`create` is the shim, born with its mounts and waiting; `start` is one byte to it; `watch` is its connection and then
its exit record; `survey` is the execution folders. The runtime itself is only one command that the shim runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Self

import msgspec

from ..cgroups.freezer import freeze
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
from ..errors import (
    ExecutionNotRunning,
    StartFailed,
)
from ..images import ImageConfig, ImageStore, parse_reference, stop_signal_of
from ..images.asked import grant_image
from ..images.serving import EngineImages, ServesImages
from ..limits import loosened_by
from ..policy import Grant
from ..processes import boot_id
from ..supervisor.address import ShimAddress
from ..supervisor.attachment import attach
from ..supervisor.keeping import Keeping
from ..supervisor.survey import survey
from ..threads import finished
from ..typed import known
from ..types import ExecutionRequest, Output, Probe, Stats
from ..volumes import Volumes, collect, grant_volumes
from . import check, disk, idranges, inside
from .birth import Births, Born
from .clearing import cleared, emptied
from .devices import OciDevices
from .execs import open_exec
from .files import Files
from .host import Host, prepare_host
from .network_check import networks_of
from .plan import Plan
from .probing import probed
from .runtime import complaint, last_words, start_failure
from .spec import OciParams, OciSettings, checked_params, checked_settings
from .userns import check_host
from .vouched import Vouched

if TYPE_CHECKING:
    from ..images.cache import ImageCache

__all__ = ["OciEngine"]

_RECONNECTS = 3
_GONE = 5.0  # seconds for a shim to end once it was told to
_LOG = logging.getLogger("dms_executor.oci")


class OciEngine(Files, ServesImages, Engine):
    """See the module. Opened by `OciEngine.open`; belongs to one event loop."""

    name: ClassVar[str] = "oci"
    rank: ClassVar[int] = 10
    params: ClassVar[type[msgspec.Struct]] = OciParams
    settings: ClassVar[type[msgspec.Struct]] = OciSettings
    keeps_log: ClassVar[bool] = True
    keeps_deadline: ClassVar[bool] = True

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._settings = checked_settings(context.settings)
        self._store = ImageStore(context.state_dir)
        self._refused = (context.state_dir,)
        self._keeping = Keeping(self.name, last_words)
        self._births = Births(context, self._settings, self._store)
        self._gauge = Gauge()
        self._devices = OciDevices(context, self._settings)
        self._vouched = Vouched()
        self._images = EngineImages(self._settings, self._store)
        self._host: Host | None = None
        self._boot = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """Looks at nothing yet: the first use does."""
        engine = cls(context)
        try:
            yield engine
        finally:
            engine._births.close()
            engine._keeping.close()

    async def probe(self) -> Probe:
        """Which runtime, why, and what can be enforced here."""
        return await probed(self.name, self._settings, self._context.state_dir, self._devices)

    async def validate(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`, `EngineUnavailable`."""
        policy = self._context.policy
        _, reference = check.check_request(request, policy)
        host = await self._ready()
        check.check_runtime(request, host.runtime.flavour)
        await networks_of(self._settings, host).check(request)
        check.host_limits(request, host, policy)
        check_host(self._settings.userns, "" if host.rootless is not None else host.no_userns)
        grant = await asyncio.to_thread(check.check_paths, request, reference, policy, self._refused)
        await self._devices.grant(request, host.rootless)
        self._vouched.keep(request, grant)

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """Grants the host paths for good, brings the image into the cache, makes the disk."""
        policy, request = self._context.policy, x.request
        params, reference = check.check_request(request, policy)
        host = await self._ready()
        limits, unenforced = check.host_limits(request, host, policy)
        devices = await self._devices.grant(request, host.rootless)
        vouched = self._vouched.take(request)
        grant, volumes = vouched if vouched is not None else await finished(None, self._grants, x)
        image, digest = ImageConfig(), None
        if reference.transport != "rootfs":
            brought = await self._images.bring(x, params, reference, grant, await self._image_cache(), report)
            image, digest = brought.config, brought.digest
        root = None if digest else grant
        plan = Plan(image=image, root=root, digest=digest, volumes=volumes, limits=limits, devices=devices)
        if limits.disk is not None:
            await disk.make_disk(x.folder, limits.disk, host, plan, self._store)
        return Prepared(
            state=plan.to_state(),
            stop_signal=stop_signal_of(image),
            loosened=[*loosened_by(request), *devices.told],
            unenforced=unenforced,
        )

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """The shim, with everything mounted, waiting for its go."""
        host = await self._ready(launching=True)
        plan = Plan.from_state(p.state)
        shim = await self._keeping.known(x)
        if shim is None:
            shim = self._keeping.add(x, await self._births.born(x, p, plan, host))
        born = self._births.known.get(x.token, Born())
        userns = born.userns
        told = host.rootless.told if host.rootless is not None else userns.told
        address = ShimAddress(boot=self._boot, pid=shim.pid, start_time=shim.start_time)
        return Handle(
            state={**msgspec.to_builtins(address), "volumes": p.state.get("volumes", {}), "ids": userns.first},
            engine_ids={
                "container": x.token,
                "shim": str(shim.pid),
                "runtime": host.runtime.flavour.name,
                "userns": told,
            },
            loosened=[f"userns: {userns.why}"] if userns.why else [],
            ports=born.ports,
        )

    async def start(self, x: Execution, h: Handle) -> datetime:
        """Raises `StartFailed` with what the runtime or the init said."""
        shim = await self._keeping.connection(x)
        if shim is None:
            raise StartFailed(f"the shim is gone: {await asyncio.to_thread(last_words, x.folder)}")
        going = asyncio.ensure_future(shim.go())
        try:
            await asyncio.sleep(0)  # the go is on its way: while the runtime is at work there is time for the next shim
            await self._births.restock((await self._ready()).maps)
            started = await going
        except StartFailed as error:
            said = await asyncio.to_thread(complaint, x.folder)
            raise start_failure(error, said, x) from error
        finally:
            going.cancel()  # nobody waits for it any more
        return started

    async def survey(self) -> Mapping[str, Observed]:
        """All executions of this state folder that have something of ours."""
        return await self._surveyed(None)

    async def survey_of(self, tokens: Collection[str]) -> Mapping[str, Observed]:
        """Looks into the folders of these alone, however many others have ended."""
        return await self._surveyed(tokens)

    async def _surveyed(self, tokens: Collection[str] | None) -> Mapping[str, Observed]:
        host = await self._ready()

        def is_frozen(token: str) -> bool | None:
            return host.cgroups.is_frozen(host.job_group(self._settings.cgroup_parent, token))

        if host.rootless is None:
            await asyncio.to_thread(idranges.sweep, lambda group: bool(host.cgroups.processes(group)))
        return await survey(self._context.state_dir / "executions", "bundle", is_frozen, tokens)

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """The exit record; without one, once nobody is left to write it, an `Exit` that says `lost`."""
        return await self._keeping.watch(x, h)

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        await self._keeping.signal(x, signum)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        """The shim carries it out, caller or not."""
        await self._keeping.stop(x, signum, grace)

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """Verifies that the outputs are what was granted, and fills `results_dir`. Raises `PolicyDenied`."""
        host = await self._ready()
        if exit.lost is not None:  # what is left of the job must not go on writing meanwhile
            await asyncio.to_thread(emptied, x, host, self._group(host, x))
        volumes = msgspec.convert(h.state.get("volumes", {}), known(Volumes))
        if host.rootless is not None:
            await inside.give_outputs(host.rootless, volumes)
        return await asyncio.to_thread(collect, volumes, x.folder, exit.code)

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """Shim, processes, cgroups, folders, pins. What stays is request, log and records."""
        address = await self._keeping.stopped(x, h)
        host = await self._ready()
        first_id = h.state.get("ids") if h is not None else None
        await cleared(x, host, self._group(host, x), address, first_id, self._store)
        self._gauge.forget(x.token)
        self._births.known.pop(x.token, None)

    async def pause(self, x: Execution, h: Handle) -> None:
        """Freezes the job's cgroup; returns once all of it stands still."""
        await self._freeze(x, True)

    async def resume(self, x: Execution, h: Handle) -> None:
        """Thaws it."""
        await self._freeze(x, False)

    async def stats(self, x: Execution, h: Handle) -> Stats:
        """Raises `ExecutionNotRunning`."""
        host = await self._ready()
        host.need_cgroup("stats", x.id)
        group = self._group(host, x)
        if not await asyncio.to_thread(host.cgroups.processes, group):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)
        own_kernel = host.runtime.flavour.own_kernel
        network = x.request.network
        read = await asyncio.to_thread(
            self._gauge.read, host.cgroups, group, x.token, own_kernel=own_kernel, network=network
        )
        if read.cpu_seconds is None and not await asyncio.to_thread(host.cgroups.processes, group):
            raise ExecutionNotRunning("it has ended", execution_id=x.id)  # while its figures were read
        return read

    async def exec(self, x: Execution, h: Handle, command: Command) -> Channel:
        """Raises `StartFailed`, `ExecutionNotRunning`."""
        return await open_exec(x, command, await self._ready(), self._context, self._settings, h.state.get("ids"))

    async def attach(self, x: Execution, h: Handle) -> Attached:
        """Raises `ExecutionNotRunning`, `NotSupported`."""
        check.check_power("attach", (await self._ready()).runtime.flavour, x.id)
        return await attach(x.folder)

    async def _ready(self, *, launching: bool = False) -> Host:
        if self._host is None or (launching and await self._host.has_lost_its_scope()):
            host = await prepare_host(self._settings, self._context.state_dir)
            self._boot = await asyncio.to_thread(boot_id)
            self._host = host
        return self._host

    async def _image_cache(self) -> ImageCache:
        rootless = (await self._ready()).rootless
        return self._images.cache(lambda: inside.Namespace(rootless) if rootless is not None else None)

    def _grants(self, x: Execution) -> tuple[Grant | None, Volumes]:
        policy, request = self._context.policy, x.request
        reference = parse_reference(checked_params(request.engine_spec.params).image, self.name)
        grant = grant_image(reference, policy, self._refused)
        return grant, grant_volumes(request, policy, self._refused)

    def _group(self, host: Host, x: Execution) -> str:
        return host.job_group(self._settings.cgroup_parent, x.token)

    async def _freeze(self, x: Execution, frozen: bool) -> None:
        host = await self._ready()
        check.check_power("pause", host.runtime.flavour, x.id)
        host.need_cgroup("pause", x.id)
        group = self._group(host, x)
        try:
            await freeze(host.cgroups, group, frozen, engine=self.name)
        except FileNotFoundError as error:
            raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
