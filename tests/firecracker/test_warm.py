"""Clones of a guest that had booted before, by the real Firecracker: each with its own time, random numbers, name and
disks. In the host in a box: `scripts/host pytest tests/firecracker/test_warm.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import ByteSize, Executor, Resources, StorageVolume
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import firecrackers

from .test_engine import job

pytestmark = firecrackers.needed


@pytest.fixture(params=[True, False], ids=["jailed", "bare"])
async def executor(request: pytest.FixtureRequest, state: Path, rootfs: Path, folder: Path) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs, folder), write_roots=(folder,), missing_defaults="record")
    engine = firecrackers.settings() | {"jailed": request.param}
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


async def _snapshot(executor: Executor, name: str) -> str | None:
    return (await executor.inspect(name)).engine_ids.get("snapshot")


@pytest.mark.timeout(600)
async def test_clones_share_nothing_that_a_job_sees(
    executor: Executor, rootfs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said, snapshots = [], []
    for size in (100, 300_000):
        own = folder / os.urandom(6).hex()
        own.mkdir()
        (own / "content").write_bytes(b"x" * size)
        before = int(time.time())
        script = "date +%s; uname -n; head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid"
        script += "; cat /proc/sys/kernel/random/boot_id; md5sum </in; wc -c </in; echo err >&2"
        script += "; head -c 20000000 /dev/zero >/big; ls /results; echo mine >/results/y; exit 7"
        request = job(
            rootfs,
            *("sh", "-c", script),
            inputs=[StorageVolume(source=str(own / "content"), target="/in")],
            outputs=[StorageVolume(target="/results")],
            results_dir=str(own / "results"),
            resources=Resources(disk=ByteSize("64MiB")),
        )
        result = await executor.run(request)
        assert (result.exit_code, result.stderr) == (7, b"err\n"), result
        lines = (result.stdout or b"").decode().split("\n")
        assert before <= int(lines[0]) <= time.time() + 1
        assert int(lines[6]) == size
        assert (own / "results" / "outputs" / "results" / "y").read_text() == "mine\n"
        said.append(lines[1:6])
        snapshots.append(await _snapshot(executor, request.execution_id))
    assert all(mine != theirs for mine, theirs in zip(*said, strict=True)), said
    assert "did not come to life" not in caplog.text
    assert "jobs boot" not in caplog.text
    assert snapshots[0] is not None
    assert snapshots[0] == snapshots[1], "they came of two snapshots"


@pytest.mark.timeout(600)
async def test_a_damaged_snapshot_is_thrown_away_and_the_job_boots(
    executor: Executor, rootfs: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = job(rootfs, "true")
    assert (await executor.run(whole)).exit_code == 0
    path = state / "microvm" / "warm" / str(await _snapshot(executor, whole.execution_id))
    assert "did not come to life" not in caplog.text
    os.truncate(path, path.stat().st_size // 2)
    result = await executor.run(job(rootfs, "sh", "-c", "echo out; exit 3"))
    assert (result.exit_code, result.stdout) == (3, b"out\n"), result
    assert not path.exists()
    assert "did not come to life, the job booted" in caplog.text
