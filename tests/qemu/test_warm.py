"""Clones of a guest that had booted before: each with its own time, random numbers, name and disks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dms_executor import Executor, StorageVolume
from dms_executor.microvm import warm
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus
from tests.qemu.jobs import job, run

pytestmark = qemus.needed


@pytest.fixture(autouse=True)
def however_slow_it_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_DEADLINE", 240.0)


async def _snapshot(executor: Executor, name: str) -> str | None:
    return (await executor.inspect(name)).engine_ids.get("snapshot")


@pytest.mark.timeout(300)
async def test_clones_share_nothing_that_a_job_sees(
    executor: Executor, rootfs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    for number, size in enumerate((100, 300_000)):
        content = folder / f"content-{number}"
        content.write_bytes(bytes([65 + number]) * size)
        before = int(time.time())
        script = "date +%s; uname -n; head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid"
        script += "; cat /proc/sys/kernel/random/boot_id; md5sum </in; wc -c </in"
        given = [StorageVolume(source=str(content), target="/in")]
        result = await run(executor, rootfs, f"clone-{number}", script, inputs=given)
        assert result.exit_code == 0, result
        lines = (result.stdout or b"").decode().split("\n")
        assert before <= int(lines[0]) <= time.time() + 1
        assert int(lines[6]) == size
        said.append(lines[1:6])
    assert all(mine != theirs for mine, theirs in zip(*said, strict=True)), said
    snapshots = [await _snapshot(executor, f"clone-{number}") for number in range(2)]
    assert snapshots[0] is not None
    assert snapshots[0] == snapshots[1], "they came of two snapshots"
    assert "did not come to life" not in caplog.text, "a clone could not take its disks"


@pytest.mark.timeout(300)
async def test_a_damaged_snapshot_is_thrown_away_and_the_job_boots(
    executor: Executor, rootfs: Path, folder: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "content").touch()
    given = [StorageVolume(source=str(folder / "content"), target="/in")]  # the shape of the test above
    await run(executor, rootfs, "whole", "true", inputs=given)
    snapshot = await _snapshot(executor, "whole")
    path = state / "microvm" / "warm" / str(snapshot)
    size = path.stat().st_size
    os.truncate(path, size // 2)
    result = await run(executor, rootfs, "booted", "echo out; exit 3", inputs=given)
    assert (result.exit_code, result.stdout) == (3, b"out\n"), result
    assert not path.exists()
    assert "did not come to life, the job booted" in caplog.text
    path.with_name(f"{path.name}.refused").unlink()


@pytest.mark.timeout(300)
async def test_without_warm_starts_a_job_boots(state: Path, rootfs: Path) -> None:
    policy = Policy(read_roots=(rootfs,), missing_defaults="record")
    settings = Settings(engines={"qemu": {**qemus.settings(), "warm": False}})
    async with Executor.open(state, policy=policy, settings=settings) as opened:
        result = await opened.run(job(rootfs, "cold", "sh", "-c", "echo out; exit 3"))
        assert (result.exit_code, result.stdout) == (3, b"out\n"), result
        assert await _snapshot(opened, "cold") is None
