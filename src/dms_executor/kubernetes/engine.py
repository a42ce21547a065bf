"""The `kubernetes` engine: a pod for each execution, in a cluster that exists.

`prepare` makes the pod, whose init waits for the go, and follows it until that runs: what takes long on a cluster
(a place, a pull) is the preparation's, and ends with it. `start` is a signal to the init, sent by an exec; `output`
is the pod's log, in which the init has written both streams as lines; `watch` is its last lines, the init's report, and
the pod's status, in which the cluster says who else has ended it. One watch tells of all pods of an executor. Nothing
restarts a pod: a job runs once or not.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import ClassVar, Self

import msgspec

from ..engine import Engine, EngineContext, Execution, Exit, Handle, Observed, Prepared, Report
from ..errors import EngineUnavailable, EngineUnreachable, StartFailed
from ..limits import loosened_by
from ..supervisor.said import Report as InitReport
from ..typed import known
from ..types import ExecutionRequest, Output, Probe, Progress
from ..volumes import Volumes, collect, grant_volumes, plain_volumes
from .body import pod_of
from .check import ENFORCED, check_paths, check_request, limits_and_gaps
from .choices import check_choices, chosen_by
from .claims import check_claims
from .client import AGAIN, ApiError
from .copies import Copies
from .gauge import Gauge
from .names import pod_name
from .output import Reading
from .places import Place, places_of
from .pods import Refused
from .sites import Sites
from .spec import KubernetesParams, KubernetesSettings, checked_params, checked_settings
from .starting import Starts
from .transfers import Transfers
from .view import Pod, ended, forsaken, may_pass, seen, trouble, waits_for

__all__ = ["KubernetesEngine"]

_log = logging.getLogger("dms_executor.kubernetes")
_REMOVAL = 90.0  # seconds in which a node ends a pod that is deleted, if there is one
_SLOW = 15.0  # seconds after which it is looked whether a node has all that it makes a pod of
_STANDS = 30.0  # seconds after which what a node may get over by itself is taken for final
_POWERS = frozenset(
    {"exact_signal", "oom_detection", "exec", "exec_kill", "copy", "attach", "tty", "stats", "named_volumes"}
)


class KubernetesEngine(Starts, Copies, Transfers, Engine):
    """See the module. Opened by `KubernetesEngine.open`; belongs to one event loop."""

    name: ClassVar[str] = "kubernetes"
    rank: ClassVar[int] = 1000  # another's machines, and their bill: only where it is named
    params: ClassVar[type[msgspec.Struct]] = KubernetesParams
    settings: ClassVar[type[KubernetesSettings]] = KubernetesSettings
    keeps_log: ClassVar[bool] = False
    keeps_deadline: ClassVar[bool] = True
    shares_clock: ClassVar[bool] = False

    def __init__(self, context: EngineContext, settings: KubernetesSettings) -> None:
        self._context = context
        self._settings = settings
        self._sites = Sites(settings, context.executor_id)
        self._readings: dict[str, Reading] = {}
        self._over: set[str] = set()
        self._asked: dict[str, float] = {}
        self._said: dict[str, asyncio.Future[InitReport]] = {}
        self._pulled: dict[str, Reading | None] = {}
        self._whole: set[str] = set()
        self._signalling: dict[str, asyncio.Lock] = {}
        self._refused: dict[str, tuple[float, int]] = {}
        self._gauge = Gauge()
        self._forsaken: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """Asks the cluster nothing yet: the first use does."""
        engine = cls(context, checked_settings(context.settings))
        try:
            yield engine
        finally:
            for reading in engine._readings.values():
                await reading.close()
            await engine._sites.close()

    async def probe(self) -> Probe:
        """Whether a cluster answers, and lets us see pods there."""
        try:
            own, *others = [site.client for site in await self._sites.all()]
            version = await own.call("GET", "/version", deadline=5.0)
            await asyncio.gather(*(one.call("GET", "pods", deadline=5.0, limit="1") for one in (own, *others)))
        except (EngineUnavailable, EngineUnreachable, ApiError) as error:
            mend = error.mend or "Give the user of the kubeconfig the rights that docs/kubernetes.md names"
            return Probe(engine=self.name, usable=False, problem=error.message, mend=mend)
        told = f"{version.get('gitVersion', '')} (namespace {await own.namespace()})"
        powers = _POWERS | ENFORCED | ({"gpus"} if self._settings.gpus else frozenset())
        return Probe(engine=self.name, usable=True, version=told, capabilities=powers)

    async def validate(self, request: ExecutionRequest) -> None:
        """Raises `InvalidRequest`, `NotSupported`, `PolicyDenied`, `EngineUnavailable`."""
        params = check_request(request, self._context.policy, self._settings)
        limits_and_gaps(request, self._context.policy, self._settings)
        if plain_volumes(request) is None:
            await asyncio.to_thread(check_paths, request, self._context.policy, (self._context.state_dir,))
        own = self._sites.named(None).client
        check_choices(params, self._settings, await own.namespace())
        await check_claims(request, self._sites.named(params.namespace).client)

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        """The pod, until its init waits for the go. Raises `ImageNotFound`, `ImagePullFailed`, `StartFailed`."""
        policy, settings = self._context.policy, self._settings
        limits, unenforced = limits_and_gaps(x.request, policy, settings)
        params = checked_params(x.request.engine_spec.params)
        site = self._sites.of(x)
        init = await site.init_map()
        volumes = await asyncio.to_thread(grant_volumes, x.request, policy, (self._context.state_dir,))
        places = await asyncio.to_thread(places_of, volumes)
        whose = self._context.executor_id
        patience = x.request.prepare_timeout or self._context.prepare_timeout
        body = pod_of(
            *(x, params, settings, limits),
            executor_id=whose,
            init=init,
            places=places,
            grace=self._context.grace,
            patience=patience,
        )
        await site.pods.ready()
        pod = await self._made(x, body)
        site.pods.learn(pod)
        if any(place.fills for place in places):
            await self._waits(x, report, lambda pod: pod.takes_inputs)
            await self._bring_in(x, report, places)
        pod = await self._waits(x, report, lambda pod: pod.is_up)
        kept = [(place.number, place.fills) for place in places if place.returns]
        return Prepared(
            state={
                "node": pod.spec.node_name,
                "uid": pod.metadata.uid,
                "volumes": msgspec.to_builtins(volumes),
                "places": kept,
            },
            loosened=[*loosened_by(x.request), *chosen_by(params)],
            unenforced=unenforced,
        )

    async def create(self, x: Execution, p: Prepared) -> Handle:
        """All is made already, and nothing of the job has run."""
        client = self._sites.of(x).client
        ids = {"pod": pod_name(x.token), "namespace": await client.namespace(), "node": str(p.state["node"])}
        kept = {name: p.state[name] for name in ("uid", "volumes", "places")}
        return Handle(state={**kept, "cluster": await client.cluster()}, engine_ids=ids)

    async def survey(self) -> Mapping[str, Observed]:
        """All pods that bear this executor's label, in every namespace that they may be in.

        Whether one that stands runs its job is not the cluster's to know: "created" until `withdraw` asks for it.
        """
        found = [item for site in await self._sites.all() for item in (await site.pods.listed()).items()]
        return {
            token: Observed(
                phase="ended" if pod.has_ended else "created", handle=Handle(state={"uid": pod.metadata.uid})
            )
            for token, pod in found
        }

    async def watch(self, x: Execution, h: Handle) -> Exit:
        """What the init said in the log or reported to the cluster, else what the cluster says."""
        seeing = asyncio.ensure_future(self._last_seen(x))
        try:
            heard = await self._heard(x, seeing)
            if heard is not None:
                self._is_over(x)
                return heard
            pod, is_forsaken = await seeing
        finally:
            seeing.cancel()
            await asyncio.wait([seeing])
        if pod is not None and is_forsaken:
            self._forsaken.add(x.token)
            self._is_over(x)
            return forsaken(pod, stopped=(await self._was_sent(x)).stopped)
        if pod is None or pod.was_removed:
            await self._is_where_it_was(x, h)
        self._is_over(x)
        report = await self._word_of(x, pod) if pod is not None else InitReport()
        sent = await self._was_sent(x)
        exit_ = ended(pod, report, killed=sent.signalled, stopped=sent.stopped)
        if exit_ is None:
            raise EngineUnreachable("the watch ended before the pod did", execution_id=x.id)
        return sent.judged(exit_, x.request.timeout)

    async def _is_where_it_was(self, x: Execution, h: Handle) -> None:
        """Of a pod that is not there. Raises `EngineUnreachable` where it was made in another cluster than this one."""
        made, here = h.state.get("cluster"), await self._sites.of(x).client.cluster()
        if made is not None and made != here:
            raise EngineUnreachable(
                f"its pod was made in {made}, and there is none of that name in {here}",
                mend="Name that cluster's kubeconfig, context and namespace again",
                execution_id=x.id,
            )

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        """Fetches the outputs, and fills `results_dir`. Raises `PolicyDenied`, `CopyFailed`, `EngineUnreachable`.

        What was in a pod that the cluster took away is lost with it.
        """
        volumes = msgspec.convert(h.state.get("volumes", {}), known(Volumes))
        is_lost = exit.lost is not None
        if await self._keeps_files(x) if is_lost else exit.started_at is not None:
            places = [Place(number, volumes.mounts[number], fills) for number, fills in h.state.get("places", [])]
            for text in await self._bring_out(x, places, exit.finished_at or datetime.now(UTC)):
                _log.warning("outputs: %s", text, extra={"execution_id": x.id, "engine": self.name})
        return await asyncio.to_thread(collect, volumes, x.folder, exit.code)

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        """The pod with its log; returns when the cluster has nothing of it any more."""
        reading = self._readings.pop(x.token, None)
        if reading is not None:
            await reading.close()
        self._signalling.pop(x.token, None)
        self._refused.pop(x.token, None)
        self._said.pop(x.token, None)
        self._over.discard(x.token)
        self._asked.pop(x.token, None)
        self._whole.discard(x.token)
        self._gauge.forget(x.token)
        site = self._sites.of(x)
        try:
            await site.pods.ready()
            # One that has ended goes at once, whatever the grace: the kubelet has no say in it any more.
            # No kubelet answers for a forsaken one, nor for one that stays: it is taken off the cluster's books.
            for grace in ("0",) if x.token in self._forsaken else ("1", "0"):
                await site.client.call("DELETE", f"pods/{pod_name(x.token)}", gracePeriodSeconds=grace)
                if await self._goes(x):
                    self._forsaken.discard(x.token)
                    return
                _log.warning("the pod does not go", extra={"execution_id": x.id, "engine": self.name})
        except ApiError as error:
            if error.status != 404:
                raise EngineUnreachable(error.message, mend=error.mend) from error
            if h is not None:
                await self._is_where_it_was(x, h)
            self._forsaken.discard(x.token)
        else:
            raise EngineUnreachable("the pod does not go", mend="Look at its finalizers", execution_id=x.id)

    async def _goes(self, x: Execution) -> bool:
        """Whether one that was deleted is gone in the time that its node is given for that."""
        try:
            async with asyncio.timeout(_REMOVAL), aclosing(self._sites.of(x).pods.changes(x.token)) as changes:
                async for pod in changes:
                    if pod is None:
                        return True
        except TimeoutError:
            pass
        return False

    async def _made(self, x: Execution, body: dict[str, object]) -> Pod:
        client = self._sites.of(x).client
        try:
            # Its name is ours alone.
            return seen(await client.create("pods", body) or await client.call("GET", f"pods/{pod_name(x.token)}"))
        except ApiError as error:
            raise StartFailed(error.message, mend="Look at the cluster's quotas and rights") from error

    async def _waits(self, x: Execution, report: Report, is_there: Callable[[Pod], bool]) -> Pod:
        """Follows the pod until it is that far. Raises what no waiting mends."""
        loop, told, site, pod = asyncio.get_running_loop(), "", self._sites.of(x), None
        stands: float | None = None
        for pause in itertools.chain(AGAIN, itertools.repeat(AGAIN[-1])):
            try:
                async with asyncio.timeout(_SLOW), aclosing(site.pods.changes(x.token)) as changes:
                    async for pod in changes:
                        if pod is None:
                            raise StartFailed("its pod was deleted before its job ran", execution_id=x.id)
                        if is_there(pod):
                            return pod
                        failure = trouble(pod)
                        stands = (stands or loop.time()) if may_pass(pod) else None
                        if failure is not None and (stands is None or loop.time() - stands >= _STANDS):
                            failure.execution_id = x.id
                            raise failure
                        if (why := waits_for(pod)) and why != told:
                            told = why
                            report(Progress(what=why, done=0, unit="pods", waits=True))
            except Refused:
                raise
            except TimeoutError:
                if pod is None or not pod.is_placed or waits_for(pod):
                    continue
                try:
                    await site.renew()
                    continue
                except EngineUnreachable as error:
                    report(Progress(what=error.message, done=0, unit="pods", waits=True))
            except EngineUnreachable as error:  # it may have waited for long; prepare_timeout ends this
                report(Progress(what=error.message, done=0, unit="pods", waits=True))
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")
