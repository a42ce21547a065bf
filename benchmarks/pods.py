"""Jobs in pods beside the cluster's own Jobs by the same client: `echo hi`, and COUNT at once (100).

On both sides the clock runs from the first creation to the last result with its output, and what has ended is deleted
as it ends, without waiting for it to be gone; each side begins when nothing of the other is there.

usage: scripts/cluster run scripts/bench pods [COUNT [both|jobs|ours]]
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.kubernetes import KubernetesSpec
from dms_executor.kubernetes.client import Client
from dms_executor.kubernetes.spec import KubernetesSettings

_KUBECONFIG = os.environ.get("DMS_EXECUTOR_CLUSTER_ADMIN", "")
_IMAGE = "localhost/busybox:1"
_JOBS = "/apis/batch/v1/namespaces/default/jobs"
_ONE = 9
_CREATIONS = 100  # under way at once by the client of Jobs, which would else wait for its own


class Requests(logging.Handler):
    """What the client has asked, by its own log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args
        if isinstance(args, tuple) and args and " ms" in record.msg:
            method, _, path = str(args[0]).partition(" ")
            parts = path.removeprefix("/apis/batch/v1/namespaces/default/").split("/")
            kind = "log" if parts[-1] == "log" else parts[0]
            self.counts["exec" if method == "exec" else f"{method} {kind}"] += 1


async def plain(client: Client, count: int) -> float:
    """Seconds from the first creation to the last log; one watch for all."""
    label, names = f"j{uuid4().hex}", [f"plain-{uuid4().hex[:12]}" for _ in range(count)]

    turns = asyncio.Semaphore(_CREATIONS)

    async def one(name: str) -> None:
        container = {"name": "job", "image": _IMAGE, "command": ["echo", "hi"]}
        pod = {"metadata": {"labels": {"bench": label}}, "spec": {"restartPolicy": "Never", "containers": [container]}}
        body = {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": pod}}
        async with turns:
            await client.call("POST", _JOBS, {"apiVersion": "batch/v1", "kind": "Job", **body}, deadline=120.0)

    began = time.perf_counter()
    making = asyncio.gather(*map(one, names))
    removing: list[asyncio.Task[Any]] = []

    async def read(pod: str, job: str) -> None:
        async with client.stream("GET", f"pods/{pod}/log", deadline=60.0) as pieces:
            text = b"".join([piece async for piece in pieces])
        assert text == b"hi\n", text
        call = client.call("DELETE", f"{_JOBS}/{job}", deadline=120.0, propagationPolicy="Background")
        removing.append(asyncio.create_task(call))

    logs: dict[str, asyncio.Task[None]] = {}
    query = {"watch": "1", "labelSelector": f"bench={label}"}
    # A server ends a watch after some minutes; and where a creation failed not all will come.
    while len(logs) < count and not (making.done() and making.exception() is not None):
        async with client.stream("GET", "pods", query=query) as pieces:
            rest = b""
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    pod: dict[str, Any] = json.loads(line)["object"]
                    name = pod["metadata"]["name"]
                    if pod["status"].get("phase") in ("Succeeded", "Failed") and name not in logs:
                        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
                        logs[name] = asyncio.create_task(read(name, job))
                if len(logs) == count:
                    break
    await making
    await asyncio.gather(*logs.values())
    took = time.perf_counter() - began
    await asyncio.gather(*removing)
    return took


async def ours(executor: Executor, count: int) -> float:
    """Seconds from the first start to the last result."""

    async def one() -> None:
        spec = KubernetesSpec(image=_IMAGE, cmd=["echo", "hi"]).build()
        result = await executor.run(ExecutionRequest(job_id="bench", execution_id=uuid4().hex, engine_spec=spec))
        assert result.stdout == b"hi\n", result

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began


async def _gone(client: Client) -> None:
    """Until no pod is there."""
    while (await client.call("GET", "pods", limit="1"))["items"]:
        await asyncio.sleep(0.3)


async def main(count: int, side: str) -> None:
    counter = Requests()
    log = logging.getLogger("dms_executor.kubernetes")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    client = Client(KubernetesSettings(kubeconfig=_KUBECONFIG))
    settings = Settings(engines={"kubernetes": {"kubeconfig": _KUBECONFIG}})

    def asked(whose: str) -> None:
        counts = ", ".join(f"{what} {n}" for what, n in counter.counts.most_common())
        print(f"asked for {count} by {whose}: {counts}", flush=True)

    with tempfile.TemporaryDirectory(prefix="dms-executor-") as folder:
        async with Executor.open(Path(folder), policy=Policy.trusted(), settings=settings) as executor:

            async def alone(count: int, *, is_ours: bool) -> float:
                await _gone(client)
                counter.counts.clear()
                return await (ours(executor, count) if is_ours else plain(client, count))

            await alone(1, is_ours=True)
            await alone(1, is_ours=False)
            if side == "both":
                pairs = [(await alone(1, is_ours=False), await alone(1, is_ours=True)) for _ in range(_ONE)]
                _tell("echo hi", *(statistics.median(one) for one in zip(*pairs, strict=True)))
            log.addHandler(counter)
            theirs = mine = 0.0
            if side != "ours":
                theirs = await alone(count, is_ours=False)
                asked("a client of Jobs")
            if side != "jobs":
                mine = await alone(count, is_ours=True)
                asked("this package")
            _tell(f"{count} at once", theirs, mine)
    await client.close()


def _tell(what: str, theirs: float, mine: float) -> None:
    ratio = f", ratio {mine / theirs:.2f}" if theirs and mine else ""
    print(f"{what}: Jobs {theirs:.2f} s, this package {mine:.2f} s{ratio}", flush=True)


if __name__ == "__main__":
    if not _KUBECONFIG:
        sys.exit("usage: scripts/cluster run scripts/bench pods [COUNT [both|jobs|ours]]")
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, (sys.argv[2:] or ["both"])[0]))
