"""The workloads in which a job is begun: launch to result, jobs per second, many in flight, exec, cancel, start-up."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import sys
import time
from pathlib import Path

import exec as execs
import peers
from bare import Bare
from compare import Run, per_second
from failed import Failed
from field import RUNTIMES, Field, Ours, compiled
from launch import bundle_of
from linework import first_line
from published import Workload
from spawner import spawn

__all__ = ["cancels", "flights", "launches", "many", "runs", "starts"]

ECHO = ["echo", "hi"]


def run_of(field: Field, ours: Ours) -> Run:
    async def run() -> float:
        began = time.perf_counter()
        result = await ours.executor.run(ours.request(field.name(), ECHO))
        took = time.perf_counter() - began
        if (result.exit_code, result.stdout) != (0, b"hi\n"):
            raise Failed(f"{result}")
        return took

    return run


async def bares(field: Field) -> dict[str, Bare]:
    """The bare runtimes with the bundle that this package makes, less its init."""
    found = {}
    for ours in field.ours:
        runtime = ours.name.removeprefix("ours, ")
        if runtime in RUNTIMES:
            bundle = field.scratch / f"bundle-{runtime}"
            config = await bundle_of(ours.executor, ours.state, field.root, bundle, init=True)
            found[runtime] = Bare(runtime, field.root, config, field.scratch)
    return found


async def everybody(field: Field) -> dict[str, Run]:
    """Who launches `echo hi` and brings its output."""
    found = {ours.name: run_of(field, ours) for ours in field.ours}

    async def runtimes() -> dict[str, Run]:
        return {
            f"{runtime} run": functools.partial(asyncio.to_thread, bare.run)
            for runtime, bare in (await bares(field)).items()
        }

    await field.add("crun run, runc run", runtimes, found)
    return {**found, **await peers.launched(field)}


async def launches(field: Field) -> list[Workload]:
    times = await field.in_turn(await everybody(field), field.size.rounds)
    what = (
        "`echo hi` in a new container of a busybox root without a network, from the call to its output and exit code. "
        "Ours with seccomp and (oci) a user namespace; the bare runtimes with the same bundle, but without seccomp."
    )
    return [Workload("launch", "Launch to result", what, times)]


async def flights(field: Field) -> list[Workload]:
    """Jobs per second, by how many are in flight."""
    contestants = await everybody(field)
    found = []
    for together, jobs in field.size.flights:
        if field.late():
            field.out(f"{together} in flight", "the workload's time was over")
            continue
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(2):
            if number and field.late():
                break
            for name in list(rates):
                try:
                    rates[name].append(await asyncio.wait_for(per_second(contestants[name], together, jobs), 90))
                except Exception as error:  # noqa: BLE001 - it is named with its error
                    field.out(f"{name}, {together} in flight", error)
                    del rates[name]
        what = f"{jobs} launches as above, {together} at once, twice in turn."
        name = f"Jobs per second, {together} in flight"
        found.append(Workload(f"flight-{together}", name, what, rates, "jobs/s", True))
    return found


async def many(field: Field) -> list[Workload]:
    """Sleeping jobs, all in flight from one caller."""
    count = field.size.sleepers
    took: dict[str, dict[str, list[float]]] = {"started": {}, "ended": {}}
    for ours in (one for one in field.ours if "docker" not in one.name):
        requests = [ours.request(field.name(), ["sleep", "100000"]) for _ in range(count)]
        names = [request.execution_id for request in requests]
        began = time.perf_counter()
        await asyncio.gather(*(ours.executor.start(request) for request in requests))
        took["started"][ours.name] = [(time.perf_counter() - began) * 1e3 / count]
        began = time.perf_counter()
        await asyncio.gather(*(ours.executor.remove(name, force=True) for name in names))
        took["ended"][ours.name] = [(time.perf_counter() - began) * 1e3 / count]
    what = f"{count} jobs that sleep, begun at once by one caller; time for each. Docker's are left out for their time."
    ended = f"Those {count}, cancelled and removed at once; time for each."
    return [
        Workload("many-start", f"{count} in flight: begun", what, took["started"]),
        Workload("many-end", f"{count} in flight: ended", ended, took["ended"]),
    ]


async def runs(field: Field) -> list[Workload]:
    """A command in a running job."""
    contestants: dict[str, Run] = {}
    for runtime in filter(shutil.which, RUNTIMES):
        enter = functools.partial(field.stack.enter_async_context, execs.job_of(runtime, field.scratch / "exec"))
        await field.add(f"{runtime} exec", enter, contestants)
    for ours in (one for one in field.ours if "docker" in one.name):
        await field.add(ours.name, functools.partial(docker_execs, field, ours), contestants)
    times = await field.in_turn(contestants, field.size.rounds)
    return [Workload("exec", "A command in a running job", "`echo hi` by exec, to its output and exit code.", times)]


async def docker_execs(field: Field, ours: Ours) -> dict[str, Run]:
    name = field.name()
    await ours.executor.start(ours.request(name, ["sleep", "3600"]))
    field.stack.push_async_callback(ours.executor.remove, name, force=True)
    words = ["run", "-d", "--network", "none", "--name", name, field.image, "sleep", "3600"]
    await asyncio.to_thread(spawn, [*field.client, *words])
    field.stack.callback(spawn, [*field.client, "rm", "-f", name])

    async def run() -> float:
        began = time.perf_counter()
        result = await ours.executor.exec(name, ECHO)
        if (result.exit_code, result.stdout) != (0, b"hi\n"):
            raise Failed(f"{result}")
        return time.perf_counter() - began

    return {ours.name: run, "docker exec": peers.spawned([*field.client, "exec", name, *ECHO])}


async def cancels(field: Field) -> list[Workload]:
    """The end of a job that obeys TERM."""
    compiled(field.root)
    contestants = {ours.name: functools.partial(cancel_of, field, ours) for ours in field.ours}
    for runtime, bare in (await bares(field)).items():
        contestants[f"{runtime} kill"] = functools.partial(asyncio.to_thread, bare.cancel)
    if field.client:
        contestants["docker stop"] = functools.partial(asyncio.to_thread, docker_stop, field)
    times = await field.in_turn(contestants, max(field.size.rounds // 2, 1))
    what = (
        "A job that ends at once by TERM: from the call until it is gone with all that it was (ours: and recorded). "
        "The bare runtime's: `kill ID TERM` until its `run` has ended."
    )
    return [Workload("cancel", "Cancel", what, times)]


async def cancel_of(field: Field, ours: Ours) -> float:
    name = field.name()
    await ours.executor.start(ours.request(name, ["bench", "obey"]))
    await first_line(ours, name)
    began = time.perf_counter()
    await ours.executor.cancel(name, signal="TERM")
    took = time.perf_counter() - began
    await ours.executor.remove(name)
    return took


def docker_stop(field: Field) -> float:
    name = field.name()
    words = ["run", "-d", "--rm", "--network", "none", "--name", name, field.image, "bench", "obey"]
    _, code = spawn([*field.client, *words])
    if code:
        raise Failed("docker run -d failed")
    while b"up" not in spawn([*field.client, "logs", name])[0]:
        time.sleep(0.01)
    began = time.perf_counter()
    spawn([*field.client, "stop", name])
    return time.perf_counter() - began


async def starts(field: Field) -> list[Workload]:
    """Whole processes."""
    python, rounds = sys.executable, field.size.rounds
    scratch = field.scratch
    imports = {
        "import nothing": [python, "-c", "print('hi')"],
        "import asyncio": [python, "-c", "import asyncio; print('hi')"],
        "import dms_executor": [python, "-c", "import dms_executor; print('hi')"],
    }
    times = await field.in_turn({name: peers.spawned(command) for name, command in imports.items()}, rounds)
    what = "A whole process of Python that imports one thing."
    found = [Workload("import", "Import", what, times)]
    script = Path(python).with_name("dms-executor")
    # From a checkout that is not installed there is no program beside Python's.
    program = [str(script)] if script.exists() else [python, "-m", "dms_executor.cli"]
    commands: dict[str, Run] = {}
    for runtime in filter(shutil.which, RUNTIMES):
        settings = scratch / f"{runtime}.json"
        settings.write_text(json.dumps({"engines": {"oci": {"runtime": runtime}}}))
        words = [*program, "--state-dir", str(scratch / f"cli-{runtime}"), "--settings", str(settings)]
        words += ["run", "--engine", "oci", "--rm", f"rootfs:{field.root}", *ECHO]
        commands[f"dms-executor run, {runtime}"] = peers.spawned(words)
    everyone = await peers.launched(field)
    commands.update({name: everyone[name] for name in ("docker run", "podman run") if name in everyone})
    what = "`echo hi`, a whole process of the command line, removed at its end; no network."
    times = await field.in_turn(commands, rounds)
    found.append(Workload("command", "The command line: run", what, times))
    return found
