"""Starts from a snapshot with programs that stand in for Firecracker and its jailer: every call is one that the API's
description allows, and a load that comes to nothing is a boot. That real guests live on is seen in `test_warm.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ByteSize, Executor, Resources
from dms_executor.cgroups import detect
from dms_executor.microvm.groups import join_files
from dms_executor.microvm.host import VmHost
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import kernels

from .saved import MEMORY
from .test_lifecycle import job

pytestmark = [
    kernels.needed,
    pytest.mark.skipif(os.geteuid() != 0, reason="the engine firecracker takes root so far"),
]


@pytest.fixture(params=[True, False], ids=["jailed", "bare"])
async def executor(
    request: pytest.FixtureRequest, state: Path, rootfs: Path, stood_in: Callable[[bool], dict[str, Any]]
) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs,), write_roots=(state.parent,))
    engine = stood_in(request.param) | {"warm": True}
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


async def ran(executor: Executor, rootfs: Path, state: Path, **fields: Any) -> tuple[Path, str]:
    """Its job's end is as it should be. The snapshot that it was to begin from, and its console."""
    request = job(rootfs, "/bin/sh", "-c", "echo out; echo err >&2; exit 7", **fields)
    before = set(state.glob("executions/*"))
    result = await executor.run(request)
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n"), result
    info = await executor.inspect(request.execution_id)
    (folder,) = set(state.glob("executions/*")) - before
    console = folder / "console"
    said = console.read_text() if console.exists() else ""
    return state / "microvm" / "warm" / info.engine_ids["snapshot"], said


async def test_every_job_of_a_shape_is_a_clone(
    executor: Executor, rootfs: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Resources(disk=ByteSize("16MiB"))  # which it writes to, beside its root
    first, said = await ran(executor, rootfs, state, resources=disk)
    second, again = await ran(executor, rootfs, state, resources=disk)
    assert first == second
    assert said == again == "restored\n"
    blocks = first.stat().st_blocks * 512
    assert blocks < len(MEMORY), "the zeros of its memory are on the disk"
    assert not caplog.records, caplog.text
    assert not [*state.glob("microvm/warm/*.*")]


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_a_start_that_fails_is_a_boot(
    executor: Executor, rootfs: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = await ran(executor, rootfs, state)
    whole = path.read_bytes()
    refused = path.with_name(f"{path.name}.refused")
    for fault, told in (
        ("refused", 'PUT /snapshot/load: Load snapshot error: the \\"machine\\" is on fire'),
        ("gone", "PUT /snapshot/load: it hung up"),
        ("cut short", "PUT /snapshot/load: Load snapshot error: Failed to get snapshot state from file"),
    ):
        path.write_bytes(whole[: len(whole) // 2] if fault == "cut short" else bearing(whole, fault))
        _, console = await ran(executor, rootfs, state)
        assert console == "", f"{fault}: it was restored"
        assert told in caplog.text
        assert "did not come to life, the job booted" in caplog.text
        assert not path.exists()
        refused.unlink()
        caplog.clear()
    path.write_bytes(bearing(whole, "slow"))
    assert (await ran(executor, rootfs, state)) == (path, "restored\n")
    path.chmod(0o666)
    assert (await ran(executor, rootfs, state)) == (path, ""), "others might have written to it"


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_a_guest_that_outlived_its_maker_goes_with_the_next(
    executor: Executor, rootfs: Path, state: Path
) -> None:
    path, _ = await ran(executor, rootfs, state)
    path.unlink()
    folders = [Path(file).parent for file in await asyncio.to_thread(groups_of, path)]
    left = await asyncio.create_subprocess_exec("sleep", "1000")
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(left.pid))
    assert (await ran(executor, rootfs, state)) == (path, "restored\n")
    assert await asyncio.wait_for(left.wait(), 60) == -signal.SIGKILL
    assert not [folder for folder in folders if folder.exists()]


def groups_of(snapshot: Path) -> list[str]:
    """Where the guest of its making is."""
    work = snapshot.with_name(f"{snapshot.name}.work")
    host = VmHost(program="", cgroups=detect())
    return join_files(host, f"dms-executor/{hashlib.sha256(os.fsencode(work)).hexdigest()[:32]}")


def bearing(data: bytes, fault: str) -> bytes:
    """A snapshot whose machine bears a fault; its form: src/dms_executor/firecracker/restoring.py."""
    memory, magic = struct.unpack("<Q8s", data[-16:])
    saved = json.loads(data[memory:-16])
    content = json.dumps(saved | {"fault": fault}).encode()
    return data[:memory] + content + struct.pack("<Q8s", memory, magic)
