"""A calling program that the tests kill: starts jobs of several kinds, one after the other.

usage: caller.py STATE_DIR IMAGE RUNS WHERE PREFIX COUNT

WHERE is a runtime of the engine oci, whose image is a root tree, or an engine and its daemon's socket:
docker:/run/docker.sock.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings, SpecConfig, StorageVolume
from dms_executor.oci import OciSpec
from dms_executor.supervisor import shim

# All at once, on a host of one processor that is some times slower (docs/host.md), shims are not born in 30 s.
shim._BIRTH *= float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))

# kind -> (script, exit code, stdout). Each appends a line to a file outside, which tells how often it ran.
KINDS = {
    "quick": ("echo hi; exit 3", 3, b"hi\n"),
    "flow": (
        "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done",
        0,
        b"".join(b"line %d\n" % i for i in range(300)),
    ),
    "slow": ("echo begin; sleep 0.4; echo end; exit 7", 7, b"begin\nend\n"),
    "outputs": ("echo out > /output/file; echo done", 0, b"done\n"),
}


def request(execution_id: str, kind: str, image: str, runs: Path, where: str) -> ExecutionRequest:
    """A job of that kind, which notes each of its runs in `runs`."""
    script = f"echo {execution_id} >> /runs/{execution_id}; {KINDS[kind][0]}"
    outputs = [StorageVolume(source=str(runs), target="/runs")]
    if kind == "outputs":
        outputs.append(StorageVolume(source=str(runs / f"{execution_id}.output"), target="/output"))
    return ExecutionRequest(
        job_id=kind,
        execution_id=execution_id,
        engine_spec=spec(image, where, ["sh", "-c", script]),
        outputs=outputs,
        init="DMS_EXECUTOR_WITHOUT_INIT" not in os.environ,
    )


def spec(image: str, where: str, cmd: list[str]) -> SpecConfig:
    """A job there."""
    engine, is_daemon, _ = where.partition(":")
    if is_daemon:
        return SpecConfig(type=engine, params={"image": image, "cmd": cmd})
    return OciSpec(image=f"rootfs:{image}", cmd=cmd).build()


def settings(where: str) -> Settings:
    """An executor there."""
    engine, is_daemon, socket = where.partition(":")
    if is_daemon:
        return Settings(engines={engine: {"socket": socket}})
    return Settings(engines={"oci": {"runtime": where}})


async def main() -> None:
    """Starts the jobs; says "ready" when the executor is open, and lives until it is killed or all have ended."""
    state, image, runs, where, prefix, count = sys.argv[1:]
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(where)) as executor:
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for number in range(int(count)):
                kind = list(KINDS)[number % len(KINDS)]
                group.create_task(executor.run(request(f"{prefix}-{number}", kind, image, Path(runs), where)))


if __name__ == "__main__":
    asyncio.run(main())
