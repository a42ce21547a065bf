"""A VM that is saved to disk while its host has its own troubles: a disk that is full, a timeout, a reboot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.errors import ExecutionNotRunning, ResourcesUnavailable
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus
from tests.disks import mounted
from tests.qemu.jobs import job
from tests.saves import until_suspending

pytestmark = [qemus.needed, pytest.mark.timeout(300)]

_DEADLINE = 120.0
_UNTIL_END = "while [ ! -e /tmp/end ]; do sleep 0.1; done; echo over; exit 7"
_AFTER_BOOT = """
import asyncio, json, sys
from pathlib import Path
from dms_executor import Executor
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus

async def main(state, name):
    settings = Settings(engines={"qemu": qemus.settings()})
    async with Executor.open(Path(state), policy=Policy.trusted(), settings=settings) as executor:
        (info,) = [info for info in await executor.list() if info.request.execution_id == name]
        await executor.restore(info.saved_as, name)
        again = await executor.inspect(name)
        await executor.exec(name, ["touch", "/tmp/end"])
        result = await executor.wait(name)
        print(json.dumps([info.status, info.saved_as, again.status, result.reason, result.exit_code]))
        await executor.remove(name)

asyncio.run(main(*sys.argv[1:]))
"""


def _opened(state: Path, **settings: object) -> AbstractAsyncContextManager[Executor]:
    engine = {**qemus.settings(), **settings}
    return Executor.open(state, policy=Policy.trusted(), settings=Settings(engines={"qemu": engine}))


def _folder(state: Path, name: str) -> Path:
    folders = [path.parent for path in (state / "executions").glob("*/request.json")]
    (found,) = [folder for folder in folders if f'"{name}"' in (folder / "request.json").read_text()]
    return found


def _later(folder: Path, seconds: int) -> None:
    """As though it had been saved for so long."""
    record = folder / "suspended"
    said = json.loads(record.read_bytes())
    said |= {name: said[name] - seconds * 10**9 for name in ("started_at", "suspended_at")}
    record.write_text(json.dumps(said))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 512 MiB."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=512m,mode=0700") as place:
        yield place


@pytest.mark.parametrize("left", [8 << 20, 0], ids=["soon", "at-once"])
async def test_a_disk_that_fills_up_meanwhile_leaves_it_running(small: Path, rootfs: Path, left: int) -> None:
    name, state = "full", small / "state"
    async with _opened(state, warm=False, memory=128) as executor:
        await executor.start(job(rootfs, name, "sh", "-c", _UNTIL_END))
        folder = await asyncio.to_thread(_folder, state, name)
        shim = int((await executor.inspect(name)).engine_ids["shim"])
        monitor = await asyncio.to_thread(lambda: _child(_child(shim)))
        os.kill(monitor, signal.SIGSTOP)  # room was asked for, and nothing is written yet
        try:
            saving = asyncio.create_task(executor.snapshot(name, name))
            await until_suspending(folder, _DEADLINE)
            await asyncio.to_thread(_fill, small, left)
        finally:
            os.kill(monitor, signal.SIGCONT)
        with pytest.raises(ResourcesUnavailable, match=r"could not be saved: .*No space left on device") as caught:
            await asyncio.wait_for(saving, _DEADLINE)
        assert "Make room in the state folder" in caught.value.mend
        half = [folder / path for path in ("vm/memory", "vm/memory.tmp", "suspended")]
        assert not [path for path in half if path.exists()]
        (small / "filler").unlink()
        info = await executor.inspect(name)
        assert info.status == "running"
        # Where nothing at all could be written, the name may not have been taken back: another save has it even so.
        assert info.saved_as is None or (info.saved_as == name and left == 0)
        await executor.snapshot(name, name)
        await executor.restore(name, name)
        await executor.exec(name, ["touch", "/tmp/end"])
        result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
        assert (result.reason, result.exit_code, result.stdout) == ("exited", 7, b"over\n"), result
        await executor.remove(name)


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _fill(disk: Path, left: int) -> None:
    system = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, system.f_bavail * system.f_frsize - left)


async def test_the_time_for_which_it_was_saved_counts_for_its_timeout(rootfs: Path, state: Path) -> None:
    name, script = "restored-late", "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    async with _opened(state) as executor:
        await executor.start(job(rootfs, name, "sh", "-c", script, timeout=1020.0))
        await executor.snapshot(name, name)
        await asyncio.to_thread(lambda: _later(_folder(state, name), 1000))
        await executor.restore(name, name)
        result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
        assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", 5), result
        assert result.stdout == b"ready\nasked\n"
        await executor.remove(name)


async def test_one_that_is_restored_after_its_timeout_has_ended_by_it(rootfs: Path, state: Path) -> None:
    name = "restored-too-late"
    async with _opened(state) as executor:
        await executor.start(job(rootfs, name, "sleep", "1000", timeout=1020.0))
        await executor.snapshot(name, name)
    await asyncio.to_thread(lambda: _later(_folder(state, name), 2000))
    async with _opened(state) as executor:
        with pytest.raises(ExecutionNotRunning, match="timeout"):
            await executor.restore(name, name)
        result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
        assert (result.status, result.reason, result.signal) == ("failed", "timed_out", 9), result
        assert "saved to disk" in result.error_msg
        assert result.started_at is not None
        assert result.finished_at is not None
        assert abs(result.finished_at - result.started_at - timedelta(seconds=1020)) < timedelta(milliseconds=1)
        await executor.remove(name)


async def test_a_reboot_of_the_host_leaves_it_saved(rootfs: Path, state: Path, tmp_path: Path) -> None:
    """Another boot id, and nothing in /run."""
    name = "rebooted"
    async with _opened(state) as executor:
        await executor.start(job(rootfs, name, "sh", "-c", _UNTIL_END))
        await executor.snapshot(name, "before")
    boot = tmp_path / "boot_id"
    boot.write_text("6ba7b810-9dad-41d1-80b4-00c04fd430c8\n")
    script = (
        f"mount --bind {boot} /proc/sys/kernel/random/boot_id && mount -t tmpfs tmpfs /run/dms-executor"
        ' && exec "$0" -c "$@"'
    )
    command = ["unshare", "-m", "sh", "-ec", script, sys.executable, _AFTER_BOOT, str(state), name]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), _DEADLINE)
    assert process.returncode == 0
    assert json.loads(output) == ["paused", "before", "running", "exited", 7]
