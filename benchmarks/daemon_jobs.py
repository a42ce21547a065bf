"""`echo hi` through a Docker daemon: ours, `docker run --rm`, docker-py, aiodocker, and the daemon's own share alone.

"create, start, wait" is the three calls one after the other on one kept connection, which no client can do without; it
brings no output, and its container is removed after its time is taken, as ours is.

usage: python benchmarks/daemon_jobs.py [ROUNDS [JOBS IN_FLIGHT]]
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from compare import Run, in_turn, per_second, report
from contests import run_of
from daemon import dockerd, missing
from failed import Failed
from field import Size, opened
from peers import COMMAND, aiodocker_of, docker_py, docker_run, spawned
from roots import busybox_root

BOUND = 1.05
OURS, OWN = "ours", "create, start, wait"
REPEATS = 3
_NO_SIZE = Size(2, (), 0, 0, 0, 0, 0, 0)


async def calls_of(socket: str, image: str, stack: contextlib.AsyncExitStack) -> Run:
    """The daemon's own three calls."""
    connector = aiohttp.UnixConnector(socket, limit=0)
    session = await stack.enter_async_context(aiohttp.ClientSession("http://daemon", connector=connector))
    numbers, removals = itertools.count(), set[asyncio.Task[Any]]()

    async def post(path: str, **query: Any) -> Any:
        async with session.post(path, **query) as answer:
            body = await answer.read()
            if answer.status >= 400:
                raise Failed(f"{path}: {answer.status} {body!r}")
            return await answer.json() if body else None

    async def remove(name: str) -> None:
        async with session.delete(f"/containers/{name}?force=1&v=1") as answer:
            await answer.read()

    async def run() -> float:
        name = f"bare-{next(numbers)}"
        config = {"Image": image, "Cmd": COMMAND, "HostConfig": {"NetworkMode": "none"}}
        began = time.perf_counter()
        await post(f"/containers/create?name={name}", json=config)
        await post(f"/containers/{name}/start")
        ended = await post(f"/containers/{name}/wait")
        took = time.perf_counter() - began
        removal = asyncio.create_task(remove(name))
        removals.add(removal)
        removal.add_done_callback(removals.discard)
        if ended["StatusCode"] != 0:
            raise Failed(f"{ended}")
        return took

    async def removed() -> None:
        await asyncio.gather(*removals)

    stack.push_async_callback(removed)
    return run


async def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    rounds, jobs, together = (given + [30, 64, 16][len(given) :])[:3]
    if why := missing():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch, contextlib.ExitStack() as outer:
        Path(scratch).chmod(0o711)
        client, image = outer.enter_context(dockerd(busybox_root(Path(scratch))))
        async with opened(Path(scratch), _NO_SIZE, client, image) as field:
            ours = next(one for one in field.ours if "docker" in one.name)
            contestants = {OURS: run_of(field, ours)}
            contestants[OWN] = await calls_of(client[-1].removeprefix("unix://"), image, field.stack)
            contestants["docker run --rm"] = spawned(docker_run(client, image))
            for name, package, make in (("docker-py", "docker", docker_py), ("aiodocker", "aiodocker", aiodocker_of)):
                if importlib.util.find_spec(package) is None:
                    print(f"{name} is missing: the package {package} is not installed")
                else:
                    contestants[name] = await make(client[-1], image, field.stack)
            others = [name for name in contestants if name != OURS]
            print(f"bound {BOUND} against {OWN}; ahead of all others")
            report("one at a time", await in_turn(contestants, rounds, warm=2), {OURS: others})
            rates: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(REPEATS):
                for name, run in contestants.items():
                    rates[name].append(await per_second(run, together, jobs))
                    await asyncio.sleep(2.0)  # what is removed after the answer
            for name, values in rates.items():
                ratio = statistics.median(theirs / mine for theirs, mine in zip(values, rates[OURS], strict=True))
                shown = " ".join(f"{value:.2f}" for value in values)
                print(f"{jobs} jobs, {together} in flight: {name:22} {shown} jobs/s; {ratio:.2f} of ours")


if __name__ == "__main__":
    asyncio.run(main())
