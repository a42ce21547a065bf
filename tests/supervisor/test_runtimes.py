"""The shim under the real runtimes, with a busybox root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import Bind, ShimSpec, binary
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import create

from .conftest import descendants, gone, name_of

BUSYBOX = shutil.which("busybox")
# Always the static one: a build with sanitizers needs libraries that the container has not.
INIT = Path(binary.__file__).parent.parent / "bin" / "dms-init"
UNIFIED = "/sys/fs/cgroup/unified"

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or BUSYBOX is None, reason="needs root and a static busybox")


@pytest.fixture(params=["crun", "runc"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., ShimSpec]]:
    """Makes the spec of a container; deletes what is left of it."""
    runtime = shutil.which(request.param)
    if runtime is None:
        pytest.skip(f"{request.param} is not installed")
    name, room, bundle = f"dms-test-{uuid4().hex[:12]}", tmp_path / "room", tmp_path / "bundle"
    rootfs = tmp_path / "rootfs"
    for made in (room, bundle, rootfs / "bin", rootfs / "proc", rootfs / "dev", rootfs / "sys"):
        made.mkdir(parents=True)
    shutil.copy(str(BUSYBOX), rootfs / "bin" / "busybox")
    for applet in ("sh", "cat", "sleep", "echo"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / ".dms-init").touch()
    subprocess.run([runtime, "spec"], cwd=bundle, check=True)
    fds = [os.open(rootfs, os.O_PATH), os.open(INIT, os.O_PATH)]
    control = [runtime, "--root", str(tmp_path / "state")]

    def make(*command: str, **options: Any) -> ShimSpec:
        config = json.loads((bundle / "config.json").read_text())
        config["process"].update(terminal=False, args=["/.dms-init", "--", *command])
        config["root"] = {"path": str(room / "root"), "readonly": True}
        config["linux"].pop("resources", None)
        config["linux"]["cgroupsPath"] = f"/{name}"
        init = {"destination": "/.dms-init", "type": "bind", "source": str(room / "init"), "options": ["bind", "ro"]}
        config["mounts"].append(init)
        (bundle / "config.json").write_text(json.dumps(config))
        start = ["run", "-d", "--preserve-fds", "1", "--pid-file", str(tmp_path / "execution" / "pid")]
        return ShimSpec(
            argv=[*control, *start, "--bundle", str(bundle), name],
            environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            room=str(room),
            umounts=[UNIFIED] if os.path.ismount(UNIFIED) else [],
            mounts=[Bind(fd=fds[0], target="root"), Bind(fd=fds[1], target="init", restricted=False)],
            log_cap=1 << 20,
            segment=1 << 18,
            **options,
        )

    yield make
    for fd in fds:
        os.close(fd)
    subprocess.run([*control, "delete", "-f", name], capture_output=True)


async def test_a_container_runs_to_its_own_exit_code(folder: Path, container: Any, read_log: Any) -> None:
    shim = await create(folder, await asyncio.to_thread(container, "sh", "-c", "echo hi; umask; sleep 60 & exit 5"))
    await shim.go()
    assert await shim.ended()
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    assert (ended.code, ended.lost, ended.error) == (5, None, "")
    assert read_log(folder).data(1) == b"hi\n0022\n"


async def test_a_missing_command_in_the_container_is_start_failed(folder: Path, container: Any) -> None:
    shim = await create(folder, await asyncio.to_thread(container, "nothing-of-the-kind"))
    with pytest.raises(StartFailed, match="nothing-of-the-kind: No such file"):
        await shim.go()
    assert await shim.ended()


async def test_a_container_is_stopped_after_its_grace(folder: Path, container: Any) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 60; done"
    shim = await create(folder, await asyncio.to_thread(container, "sh", "-c", script))
    await shim.go()
    await shim.stop(signal.SIGTERM, 0.1)
    async with asyncio.timeout(10):
        assert await shim.ended()
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    assert (ended.code, ended.signal, ended.stopped_by) in [(137, 9, "stop"), (143, 15, "stop")]


async def test_a_killed_shim_takes_the_container_along(folder: Path, container: Any) -> None:
    shim = await create(folder, await asyncio.to_thread(container, "sleep", "60"))
    await shim.go()
    inits: list[int] = []
    async with asyncio.timeout(10):
        while not inits:  # the runtime goes just now, and its child becomes the shim's
            inits = [pid for pid in await asyncio.to_thread(descendants, shim.pid) if name_of(pid) == ".dms-init"]
    os.kill(shim.pid, signal.SIGKILL)
    assert await shim.ended() is False
    assert await asyncio.to_thread(gone, inits[0])
