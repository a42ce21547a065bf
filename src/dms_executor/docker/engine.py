"""The `docker` engine: containers by a Docker daemon on this host.

`create` is POST create, under a name made of the token; `start` is POST start, after the job's output is attached to;
`watch` is the init's report and the daemon's events, subscribed to first and then inspected; `survey` is a list by
label. The daemon keeps the job when we are gone; it keeps no deadline, and its log only until the container goes. The
faults of its world: it restarts, it hangs, and it answers with codes that mean several things (`state.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal, Self

import msgspec

from ..engine import Engine, EngineContext, Execution, Exit, Handle, Observed, Prepared, Report
from ..errors import EngineUnavailable, EngineUnreachable, StartFailed
from ..images import stop_signal_of
from ..images.flight import Flights
from ..limits import loosened_by
from ..logs.inotify import Watcher
from ..supervisor.binary import init_path
from ..threads import finished
from ..typed import known
from ..types import ExecutionRequest, Output, Probe
from ..volumes import Volumes, collect, grant_volumes, verify_volumes
from . import files
from .body import create_body
from .check import check_request, daemon_limits, refused_sources
from .client import ApiError, Client
from .copies import Copies
from .daemon import Daemon, describe, described
from .devices import DRIVER_MEND, DockerDevices, reopen_devices
from .dialect import DOCKER, Dialect
from .events import Events
from .execs import Execs
from .follow import Follower
from .gauge import Gauge
from .kept import Kept
from .named import check_named_volumes
from .names import EXECUTOR, TOKEN, container_name
from .output import Attached, attach
from .outputs import Outputs
from .plan import Plan
from .ports import Ports, check_network
from .powers import Powers
from .pulling import Images
from .report import read_report, was_signalled, withdraw_go
from .spec import DockerParams, DockerSettings, checked_params, checked_settings
from .stored import StoredImages
from .withdrawal import withdrawn

__all__ = ["DockerEngine"]

Phase = Literal["created", "running", "paused", "suspended", "ended"]

_CREATION = 120.0
_REMOVAL = 60.0
_LOOK, _LOOKS = 0.05, 100
_BACK = 0.3  # seconds between looks for a daemon that went away
_PHASES: dict[str, Phase] = {
    **{"created": "created", "running": "running", "paused": "paused", "restarting": "running"},
    **{"configured": "created", "initialized": "created", "stopping": "running"},  # Podman's words
}


class DockerEngine(Powers, Outputs, Execs, Copies, StoredImages, Engine):
    """See the module. Opened by `DockerEngine.open`; belongs to one event loop."""

    name: ClassVar[str] = "docker"
    rank: ClassVar[int] = 20
    params: ClassVar[type[msgspec.Struct]] = DockerParams
    settings: ClassVar[type[DockerSettings]] = DockerSettings
    dialect: ClassVar[Dialect] = DOCKER
    keeps_log: ClassVar[bool] = False
    keeps_deadline: ClassVar[bool] = False

    def __init__(self, context: EngineContext, settings: DockerSettings, socket: str) -> None:
        self._context = context
        self._client = Client(socket, self.dialect.title)
        self._events = Events(self._client, context.executor_id)
        self._watcher = Watcher()
        self._kept = Kept(context.state_dir / f"{self.name}-images", context.state_dir / "executions")
        self._images = Images(self._client, self._kept, settings.auth_file)
        self._refused = refused_sources(context.state_dir, socket)
        self._devices = DockerDevices(context, settings, self.dialect)
        self._ports = Ports()
        self._attached: dict[str, Attached] = {}
        self._reading: dict[str, Attached] = {}
        self._fresh: set[str] = set()
        self._signalling: dict[str, asyncio.Lock] = {}
        self._gauge = Gauge()
        self._stopping: set[asyncio.Task[None]] = set()
        self._daemon: Daemon | None = None
        self._asking = Flights()

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """Asks the daemon nothing yet: the first use does."""
        settings = checked_settings(context.settings, cls.settings, cls.name)
        engine = cls(context, settings, await asyncio.to_thread(cls.dialect.finds, settings.socket))
        try:
            yield engine
        finally:
            await engine._close()

    async def probe(self) -> Probe:
        """Whether a daemon answers, and what it can enforce."""
        try:
            self._daemon = await describe(self._client)
        except (EngineUnavailable, EngineUnreachable) as error:
            return Probe(engine=self.name, usable=False, problem=error.message, mend=error.mend)
        return self._daemon.probe(self.name, *await self._devices.powers())

    async def validate(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`, `EngineUnavailable`."""
        policy = self._context.policy
        check_request(request, policy, self.dialect)
        daemon_limits(request, await self._known_daemon(), policy, self.name)
        await check_network(request, self._client, self.dialect)
        await self._devices.grant(request)
        await asyncio.to_thread(verify_volumes, request, policy, self._refused)
        await check_named_volumes(request, self._client, self.dialect)

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """Grants the host paths, and has the daemon pull the image where it lacks it."""
        policy, request = self._context.policy, x.request
        params = check_request(request, policy, self.dialect)
        daemon = await self._known_daemon()
        limits, unenforced = daemon_limits(request, daemon, policy, self.name)
        devices = await self._devices.grant(request)
        found = await self._images.find(params.image, params.platform, params.pull, x.token, report)
        volumes = await finished(None, grant_volumes, request, policy, self._refused)
        image = found.to_config()
        plan = Plan(image=image, image_id=found.id, volumes=volumes, limits=limits, devices=devices)
        return Prepared(
            state=plan.to_state(),
            stop_signal=stop_signal_of(image),
            loosened=[*loosened_by(request), *devices.told, *daemon.loosened],
            unenforced=unenforced,
        )

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """The container, not started, with its output attached to."""
        plan, params = Plan.from_state(p.state), checked_params(x.request.engine_spec.params)
        init = await finished(None, self._make_files, x, plan)
        ports = await self._ports.reserve(x.token, x.request.ports)
        body = create_body(
            x,
            plan,
            params,
            folder=files.folder_of(x),
            init=init,
            log_cap=self._context.log_cap,
            dialect=self.dialect,
            executor_id=self._context.executor_id,
            ports=ports,
            gives_gpus=await self._devices.go_by_environment(await self._known_daemon()),
        )
        container = await self._created(x, body)
        await self._events.ready()
        if self.dialect.output == "attached" and x.token not in self._attached:
            self._attached[x.token] = await attach(self._client, container, self._events.breaks)
        return Handle(
            state={
                "container": container,
                "volumes": p.state.get("volumes", {}),
                "secrets": sorted(x.request.secret_environment),
            },
            engine_ids={"container": container, "name": container_name(x.token)},
            ports=ports,
        )

    async def start(self, x: Execution, h: Handle) -> datetime:
        """Raises `StartFailed` with what the daemon or the init said."""
        self._fresh.add(x.token)
        with self._follower(x, h) as follower:
            try:
                # By a name that can be taken from it: withdrawal.py.
                named = _id(h) if x.request.init else container_name(x.token)
                await self._client.post(f"/containers/{named}/start", deadline=_CREATION)
            except ApiError as error:
                mend = DRIVER_MEND if "could not select device driver" in error.message else ""
                raise StartFailed(error.message, mend=mend, execution_id=x.id) from error
            except EngineUnreachable:
                if not await self._goes_on(x, h):
                    raise
            finally:
                self._ports.release(x.token)
            started = await follower.started()
        if x.request.stdin or x.request.provision_scripts:
            await asyncio.to_thread(files.take_input_away, x)
        return started

    async def withdraw(self, x: Execution, h: Handle) -> bool:
        """A start call outlives who made it, and the daemon may serve it while we look.

        The init and we write into its report, and who came first decides. Without our init its name is taken away.
        """
        if not x.request.init:
            return await withdrawn(self._client, _id(h), x.token)
        if await asyncio.to_thread(withdraw_go, files.folder_of(x) / "report"):
            return True
        for _ in range(_LOOKS):
            found = await self._looked_at(h)
            if found is None or found.has_started:
                return False
            await asyncio.sleep(_LOOK)  # the init is there before the daemon has noted it
        await self._taken_away(x, h)  # the daemon gave its start up: who watches it finds nothing
        return False

    async def survey(self) -> Mapping[str, Observed]:
        """All containers that bear this executor's label."""
        filters = json.dumps({"label": [f"{EXECUTOR}={self._context.executor_id}"]})
        try:
            listed = await self._ask("GET", "/containers/json", all="1", filters=filters)
        except ApiError as error:  # one that is coming up
            raise EngineUnreachable(error.message) from error
        found: dict[str, Observed] = {}
        for one in listed:
            phase = _PHASES.get(one["State"], "ended")
            found[one["Labels"][TOKEN]] = Observed(phase=phase, handle=Handle(state={"container": one["Id"]}))
        return found

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """What the init reported, else what the daemon knows."""
        try:
            with self._follower(x, h) as follower:
                end = await follower.ended()
                self._expect(x, follower)
        except EngineUnreachable:
            self._fresh.discard(x.token)  # what happens until it answers again may be missed
            raise
        if x.token in self._signalling:
            async with self._signalling[x.token]:  # a signal that came too late is no more noted
                end = msgspec.structs.replace(end, killed=await asyncio.to_thread(was_signalled, files.folder_of(x)))
        return end

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """Verifies that the outputs are what was granted, and fills `results_dir`. Raises `PolicyDenied`."""
        volumes = msgspec.convert(h.state.get("volumes", {}), known(Volumes))
        return await asyncio.to_thread(collect, volumes, x.folder, exit.code)

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """The container with its log, and the files that it was given."""
        attached = self._attached.pop(x.token, None)
        self._ports.release(x.token)
        self._fresh.discard(x.token)
        self._gauge.forget(x.token)
        self._signalling.pop(x.token, None)
        if attached is not None:
            await attached.close()
        await self._taken_away(x, h)
        await asyncio.to_thread(self._given_back, x)

    def _follower(self, x: Execution, h: Handle) -> Follower:
        return Follower(self._client, self._events, self._watcher, x, _id(h), is_fresh=x.token in self._fresh)

    def _make_files(self, x: Execution, plan: Plan) -> Path:
        files.reopen_sources(plan.volumes)
        reopen_devices(plan.devices)
        files.make_files(x)
        return init_path(self._context.state_dir)

    async def _goes_on(self, x: Execution, h: Handle) -> bool:
        """Whether a job was let go though the daemon went away over the start call; else it never runs."""
        path = files.folder_of(x) / "report"
        if not x.request.init:
            return not await self._withdrawn_when_back(x, h)
        if await asyncio.to_thread(withdraw_go, path):
            return False
        for _ in range(_LOOKS):
            if (await asyncio.to_thread(read_report, path)).started_at is not None:
                return True
            await asyncio.sleep(_LOOK)
        return False

    async def _withdrawn_when_back(self, x: Execution, h: Handle) -> bool:
        """True as well where it does not come back: nobody can tell then."""
        for _ in range(_LOOKS):
            with contextlib.suppress(EngineUnreachable):
                return await withdrawn(self._client, _id(h), x.token)
            await asyncio.sleep(_BACK)
        return True

    async def _taken_away(self, x: Execution, h: Handle | None) -> None:
        try:
            path = f"/containers/{_id(h) if h is not None else container_name(x.token)}"
            await self._ask("DELETE", path, deadline=_REMOVAL, force="1", v="1")
        except ApiError as error:
            if error.status != 404:
                raise EngineUnreachable(error.message) from error

    def _given_back(self, x: Execution) -> None:
        files.take_away(x)
        self._kept.unpin(x.token)

    async def _created(self, x: Execution, body: dict[str, object]) -> str:
        """A creation that its asker leaves is waited for all the same: else it would come after its own undoing."""
        query = {"name": container_name(x.token)}
        creation = asyncio.ensure_future(self._client.post("/containers/create", body, deadline=_CREATION, **query))
        try:
            return str((await asyncio.shield(creation))["Id"])
        except asyncio.CancelledError:
            await asyncio.wait([creation])
            raise
        except ApiError as error:
            if error.status == 409:  # made before, by a caller that died
                found = await self._ask("GET", f"/containers/{container_name(x.token)}/json")
                return str(found["Id"])
            raise StartFailed(error.message, execution_id=x.id) from error

    async def _known_daemon(self) -> Daemon:
        if self._daemon is None:
            try:
                # Once for all who begin at once: Podman takes most of a second over it.
                self._daemon = await self._asking.join("", lambda _: described(self._client), lambda _: None)
            except EngineUnreachable as error:
                raise EngineUnavailable(error.message, mend=error.mend) from error
        return self._daemon

    async def _close(self) -> None:
        for task in self._stopping:
            task.cancel()
        if self._stopping:
            await asyncio.wait(self._stopping)
        for attached in self._attached.values():
            await attached.close()
        self._ports.close()
        self._watcher.close()
        await self._events.close()
        await self._client.close()


def _id(h: Handle) -> str:
    return str(h.state["container"])
