"""`echo hi` in a running job: `Executor.exec` against `crun exec` and `runc exec` of the same container, `docker exec`.

The bare runtimes get no seccomp filter (our init installs it, and they are told of none), have no deadline and kill
nothing after themselves. `docker exec` is the client's whole process, against a daemon of this benchmark's own.

usage: python benchmarks/exec.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from compare import Run, in_rows, in_turn, report
from daemon import dockerd, missing
from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec
from failed import Failed
from roots import busybox_root
from spawner import Spawner, spawn

BOUND = 1.2
COMMAND = ["echo", "hi"]
RUNTIMES = ("crun", "runc")


@contextlib.asynccontextmanager
async def job_of(runtime: str, scratch: Path) -> AsyncIterator[dict[str, Run]]:
    """A job that sleeps, with both sides' way into it."""
    state = scratch / f"state-{runtime}"
    spec = OciSpec(image=f"rootfs:{busybox_root(scratch)}", cmd=["sleep", "3600"]).build()
    settings = Settings(engines={"oci": {"runtime": runtime}})
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        await executor.start(ExecutionRequest(job_id="bench", execution_id="job", engine_spec=spec))

        async def ours() -> float:
            began = time.perf_counter()
            result = await executor.exec("job", COMMAND)
            took = time.perf_counter() - began
            if (result.exit_code, result.stdout) != (0, b"hi\n"):
                raise Failed(f"our side failed: {result}")
            return took

        folder = next((state / "executions").iterdir())
        token = next((folder / "runtime").iterdir()).name
        command = [str(shutil.which(runtime)), "--root", str(folder / "runtime"), "exec", token, *COMMAND]
        while (shim := shim_of(folder)) is None:  # the runtime is at its end
            await asyncio.sleep(0.01)
        bare = Spawner(shim)  # crun refuses the hybrid control groups, which are out of sight there

        async def theirs() -> float:
            return bare.run(command)

        try:
            yield {f"ours, {runtime}": ours, f"{runtime} exec": theirs}
        finally:
            bare.close()
            await executor.remove("job", force=True)


def shim_of(folder: Path) -> int | None:
    """The parent of the job's first process, once it is."""
    try:
        status = Path(f"/proc/{(folder / 'pid').read_text().strip()}/status").read_text()
        parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        return parent if Path(f"/proc/{parent}/comm").read_text() == "dms-shim\n" else None
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def docker_of(scratch: Path) -> Iterator[dict[str, Run]]:
    """The same job in a daemon."""
    if why := missing():
        print(f"docker exec is missing: {why}")
        yield {}
        return
    with dockerd(busybox_root(scratch)) as (client, image):
        words = ["run", "-d", "--network", "none", "--name", "job", image, "sleep", "3600"]
        subprocess.run([*client, *words], check=True, stdout=subprocess.DEVNULL)

        async def theirs() -> float:
            began = time.perf_counter()
            output, code = spawn([*client, "exec", "job", *COMMAND])
            took = time.perf_counter() - began
            if (code, output) != (0, b"hi\n"):
                raise Failed(f"docker exec failed: {code} {output!r}")
            return took

        yield {"docker exec": theirs}
        subprocess.run([*client, "rm", "-f", "job"], check=True, stdout=subprocess.DEVNULL)


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    contestants: dict[str, Run] = {}
    pairs = {f"ours, {runtime}": [f"{runtime} exec", "docker exec"] for runtime in RUNTIMES}
    with tempfile.TemporaryDirectory(prefix="dms-bench-") as scratch:
        Path(scratch).chmod(0o711)
        async with contextlib.AsyncExitStack() as stack:
            for runtime in RUNTIMES:
                if shutil.which(runtime):
                    contestants.update(await stack.enter_async_context(job_of(runtime, Path(scratch))))
                else:
                    print(f"{runtime} is missing: it is not installed")
            contestants.update(stack.enter_context(docker_of(Path(scratch))))
            print(f"bound {BOUND} against the runtime's own exec")
            report("in turn", await in_turn(contestants, rounds), pairs)
            report("in rows", await in_rows(contestants, rounds), pairs)


if __name__ == "__main__":
    asyncio.run(main())
