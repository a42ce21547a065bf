"""A VM of the real Firecracker that is saved to disk and goes on: nothing that its job wrote is lost.

In the host in a box: `scripts/host pytest tests/firecracker/test_suspended.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import firecrackers

from .test_engine import job

pytestmark = firecrackers.needed

_DEADLINE = 300.0
_LINES = "i=0; while [ ! -e /tmp/end ]; do echo line $i; i=$((i+1)); sleep 0.01; done; date +%s; exit 7"


@pytest.fixture(params=[True, False], ids=["jailed", "bare"])
async def executor(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs,), write_roots=(tmp_path,), missing_defaults="record")
    engine = firecrackers.settings() | {"jailed": request.param, "warm": False}
    settings = Settings(engines={"firecracker": engine})
    async with Executor.open(tmp_path / "state", policy=policy, settings=settings) as opened:
        yield opened


@pytest.mark.timeout(900)
async def test_a_job_that_writes_all_the_while_loses_nothing(executor: Executor, rootfs: Path, tmp_path: Path) -> None:
    request = job(rootfs, "sh", "-c", _LINES)
    name = request.execution_id
    await executor.start(request)
    for number in range(2):
        await executor.exec(name, ["true"])
        await executor.snapshot(name, f"night-{number}")
        (memory,) = tmp_path.glob("state/executions/*/vm/memory")
        status = memory.stat()
        assert status.st_mode & 0o777 == 0o600
        assert status.st_blocks * 512 < status.st_size // 2, "the zeros of its memory are on the disk"
        print(f"{status.st_size >> 20} MiB of memory, {status.st_blocks >> 11} MiB on the disk")
        await executor.restore(f"night-{number}", name)
    await executor.exec(name, ["touch", "/tmp/end"])
    result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
    assert (result.reason, result.exit_code) == ("exited", 7), result
    *lines, date = (result.stdout or b"").splitlines()
    assert lines == [b"line %d" % number for number in range(len(lines))]
    assert result.finished_at is not None
    assert abs(int(date) - result.finished_at.timestamp()) < 120
    await executor.remove(name)
    assert not [*tmp_path.glob("state/executions/*/vm")]
