"""A calling program that the tests kill: starts jobs of several kinds on the oci engine, one after the other.

usage: caller.py STATE_DIR ROOTFS RUNS RUNTIME PREFIX COUNT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings, StorageVolume
from dms_executor.oci import OciSpec

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


def request(execution_id: str, kind: str, rootfs: str, runs: Path) -> ExecutionRequest:
    """A job of that kind, which notes each of its runs in `runs`."""
    script = f"echo {execution_id} >> /runs/{execution_id}; {KINDS[kind][0]}"
    outputs = [StorageVolume(source=str(runs), target="/runs")]
    if kind == "outputs":
        outputs.append(StorageVolume(source=str(runs / f"{execution_id}.output"), target="/output"))
    return ExecutionRequest(
        job_id=kind,
        execution_id=execution_id,
        engine_spec=OciSpec(image=f"rootfs:{rootfs}", cmd=["sh", "-c", script]).build(),
        outputs=outputs,
    )


def settings(runtime: str) -> Settings:
    """An executor on one runtime."""
    return Settings(engines={"oci": {"runtime": runtime}})


async def main() -> None:
    """Starts the jobs; says "ready" when the executor is open, and lives until it is killed or all have ended."""
    state, rootfs, runs, runtime, prefix, count = sys.argv[1:]
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(runtime)) as executor:
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for number in range(int(count)):
                kind = list(KINDS)[number % len(KINDS)]
                group.create_task(executor.run(request(f"{prefix}-{number}", kind, rootfs, Path(runs))))


if __name__ == "__main__":
    asyncio.run(main())
