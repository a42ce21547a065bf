"""The engine alone, with real runtimes, on a root tree made from busybox-static."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dms_executor.engine import EngineContext, Execution, Exit, Handle, Prepared
from dms_executor.logs import read_tail
from dms_executor.oci import OciSpec
from dms_executor.oci.engine import OciEngine
from dms_executor.policy import Policy
from dms_executor.types import ByteSize, ExecutionRequest, Output, Progress, Resources

# Here and not where they are used: a fixture that several modules import is made for each of them.
from .someone import somebody, someone

__all__ = ["somebody", "someone"]

LIMITS = Resources(memory=ByteSize("64MiB"), pids=64)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root tree: busybox with all its applets, a user, a group."""
    root = tmp_path_factory.mktemp("busybox")
    for name in ("bin", "etc", "tmp", "root"):
        (root / name).mkdir()
    shutil.copy2("/bin/busybox", root / "bin" / "busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\napp:x:1001:\nextra:x:1002:app\n")
    root.chmod(0o755)
    return root


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime that shares the host's kernel with its jobs."""
    return str(request.param)


class Ran:
    """One execution after its end."""

    def __init__(self, x: Execution, handle: Handle, end: Exit, outputs: list[Output]) -> None:
        self.x = x
        self.handle = handle
        self.exit = end
        self.outputs = outputs
        self.stdout = read_tail(x.folder, "stdout", 1 << 20)[0].decode()
        self.stderr = read_tail(x.folder, "stderr", 1 << 20)[0].decode()


class Bench:
    """Drives an engine through the calls that the lifecycle makes."""

    def __init__(self, engine: OciEngine, state: Path, busybox: Path) -> None:
        self.engine = engine
        self.state = state
        self.busybox = busybox

    def execution(self, *cmd: str, **fields: Any) -> Execution:
        token = os.urandom(8).hex()
        folder = self.state / "executions" / token
        folder.mkdir(mode=0o700, parents=True)
        params = {"image": f"rootfs:{self.busybox}", "cmd": list(cmd) or None, **fields.pop("params", {})}
        request = ExecutionRequest(
            job_id="job",
            execution_id=token,
            engine_spec=OciSpec(**params).build(),
            resources=fields.pop("resources", LIMITS),
            **fields,
        )
        return Execution(id=token, token=token, executor_id="test", folder=folder, request=request)

    async def created(self, x: Execution) -> tuple[Prepared, Handle]:
        await self.engine.validate(x.request)
        prepared = await self.engine.prepare(x, _ignore)
        return prepared, await self.engine.create(x, prepared)

    async def started(self, *cmd: str, **fields: Any) -> tuple[Execution, Handle]:
        x = self.execution(*cmd, **fields)
        _, handle = await self.created(x)
        await self.engine.start(x, handle)
        return x, handle

    async def ended(self, x: Execution, handle: Handle) -> Ran:
        end = await self.engine.watch(x, handle)
        outputs = await self.engine.collect(x, handle, end)
        ran = await asyncio.to_thread(Ran, x, handle, end, outputs)
        await self.engine.destroy(x, handle)
        assert self.left(x) == []
        return ran

    async def run(self, *cmd: str, **fields: Any) -> Ran:
        x, handle = await self.started(*cmd, **fields)
        return await self.ended(x, handle)

    async def said(self, x: Execution, text: bytes) -> None:
        """Waits until the job's log holds `text`."""
        for _ in range(1000):
            if text in b"".join(path.read_bytes() for path in (x.folder / "log").iterdir()):
                return
            await asyncio.sleep(0.01)
        raise TimeoutError(text)

    def left(self, x: Execution) -> list[str]:
        """What an execution must not leave: files, cgroups, pins, mounts."""
        stays = {"exit", "log", "shim.log"}
        files = [str(path) for path in x.folder.iterdir() if path.name not in stays]
        # os.walk passes over what goes away under it; Path.glob does not.
        levels = os.walk("/sys/fs/cgroup")
        groups = [f"{level}/{name}" for level, names, _ in levels for name in names if name == x.token]
        pins = [str(path) for path in (self.state / "images").glob(f"pins/*/{x.token}")]
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if x.token in line]
        return files + groups + pins + mounts


def _ignore(progress: Progress) -> None:
    """Nobody watches."""


@asynccontextmanager
async def opened(state: Path, busybox: Path, policy: Policy, **settings: Any) -> AsyncIterator[Bench]:
    context = EngineContext(state_dir=state, executor_id="test", settings=settings, policy=policy, grace=1.0)
    async with OciEngine.open(context) as engine:
        yield Bench(engine, state, busybox)


@pytest.fixture
async def bench(tmp_path: Path, busybox: Path, runtime: str) -> AsyncIterator[Bench]:
    """The engine, trusted, with user namespaces where they can be had."""
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns="auto") as ready:
        yield ready
