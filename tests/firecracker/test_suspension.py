"""A VM that is saved to disk and goes on, with programs that stand in for Firecracker and its jailer: every call is one
that the API's description allows, in the order that a machine takes. That a real guest lives on: `test_suspended.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor import ByteSize, Executor, Resources
from dms_executor.engine import Exit
from dms_executor.errors import ExecutionNotRunning, NotSupported, ResourcesUnavailable, SnapshotFailed, StartFailed
from dms_executor.firecracker.engine import FirecrackerEngine
from dms_executor.lifecycle.stop import running
from dms_executor.microvm import saving
from dms_executor.policy import Policy
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import connect
from dms_executor.types import Settings

from .saved import MEMORY
from .test_lifecycle import job, pytestmark, raw, until

__all__ = ["pytestmark"]

_DEADLINE = 120.0
_dear = pytest.mark.skipif(
    not os.environ.get("DMS_EXECUTOR_ALL_LINES"), reason="another second for each step: as .ci/full has it"
)
_LINES = "i=0; while [ ! -e {end} ]; do echo line $i; echo fault $i >&2; i=$((i+1)); sleep 0.01; done; exit 7"


@pytest.fixture(params=[True, pytest.param(False, marks=_dear)], ids=["jailed", "bare"])
async def executor(
    request: pytest.FixtureRequest,
    state: Path,
    rootfs: Path,
    tmp_path: Path,
    stood_in: Callable[[bool], dict[str, Any]],
) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs, tmp_path), write_roots=(tmp_path,))
    engine = stood_in(request.param)
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


async def _ended(executor: Executor, name: str, end: Path) -> None:
    """What it wrote is whole."""
    end.touch()
    result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
    assert (result.reason, result.exit_code) == ("exited", 7), result
    for data, word in ((result.stdout, b"line"), (result.stderr, b"fault")):
        lines = data.splitlines()
        assert lines == [word + b" %d" % number for number in range(len(lines))]
    await executor.remove(name)


def _saved(state: Path) -> list[Path]:
    return [*state.glob("executions/*/vm/memory")]


async def test_a_job_that_writes_all_the_while_loses_nothing(
    executor: Executor, rootfs: Path, state: Path, tmp_path: Path
) -> None:
    request = job(rootfs, "/bin/sh", "-c", _LINES.format(end=tmp_path / "end"), timeout=600.0)
    name = request.execution_id
    await executor.start(request)
    for number in range(2):
        await until(executor, request, b"line")
        await executor.snapshot(name, f"{name}-{number}")
        (memory,) = _saved(state)
        status = memory.stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_nlink) == (0o600, 0, 1)
        assert status.st_blocks * 512 < len(MEMORY), "the zeros of its memory are on the disk"
        assert not [*memory.parent.rglob("state")]
        with pytest.raises(ExecutionNotRunning, match="saved to disk"):
            await executor.send_signal(name, "USR1")
        await executor.restore(f"{name}-{number}", name)
        assert (await executor.inspect(name)).status == "running"
        assert not _saved(state)
        assert not [*memory.parent.rglob("memory")]
    await _ended(executor, name, tmp_path / "end")
    assert not [*state.glob("executions/*/vm")]


@pytest.mark.parametrize("executor", [False], ids=["bare"], indirect=True)
async def test_one_that_is_saved_while_its_end_is_looked_for_has_not_ended(
    executor: Executor, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = job(rootfs, "/bin/sh", "-c", _LINES.format(end=tmp_path / "end"))
    name = request.execution_id
    await executor.start(request)
    await until(executor, request, b"line")
    live = await running(executor._core, name)
    assert isinstance(live.engine, FirecrackerEngine)
    loop = asyncio.get_running_loop()

    def meanwhile(folder: Path) -> Exit | None:
        found = read_exit(folder)
        asyncio.run_coroutine_threadsafe(executor.snapshot(name, name), loop).result(_DEADLINE)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(saving, "read_exit", meanwhile)
        assert not await live.engine._ended(live.x)
    await executor.restore(name, name)
    await _ended(executor, name, tmp_path / "end")


@pytest.mark.parametrize("executor", [False], ids=["bare"], indirect=True)
@pytest.mark.parametrize("fault", ["full", pytest.param("fault", marks=_dear)])
async def test_one_that_cannot_be_saved_goes_on(
    executor: Executor, rootfs: Path, state: Path, tmp_path: Path, fault: str
) -> None:
    request = job(rootfs, "/bin/sh", "-c", _LINES.format(end=tmp_path / "end"))
    name = request.execution_id
    await executor.start(request)
    await until(executor, request, b"line")
    (socket,) = state.glob("executions/*/vm/**/api.sock")
    told = socket.with_name(fault)
    told.write_text('{"fault_message": "it is on fire"}')
    with pytest.raises(
        ResourcesUnavailable if fault == "full" else SnapshotFailed,
        match="os error 28" if fault == "full" else "on fire",
    ):
        await executor.snapshot(name, name)
    assert (await executor.inspect(name)).status == "running"
    assert not _saved(state)
    told.unlink()
    await executor.snapshot(name, name)
    await executor.restore(name, name)
    await _ended(executor, name, tmp_path / "end")


@pytest.mark.parametrize("executor", [False], ids=["bare"], indirect=True)
async def test_room_is_asked_for_all_that_firecracker_writes(
    executor: Executor, rootfs: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = job(rootfs, "sleep", "1000", resources=Resources(memory=ByteSize("200MiB")))
    name = request.execution_id
    await executor.start(request)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "_RESERVE", 1 << 62)
        with pytest.raises(ResourcesUnavailable, match="are free") as caught:
            await executor.snapshot(name, name)
    said = re.search("may take ([0-9]+) MiB", str(caught.value))
    await executor.snapshot(name, name)
    (memory,) = _saved(state)
    length, _ = struct.unpack("<Q8s", memory.read_bytes()[-16:])
    assert said is not None
    assert int(said[1]) << 20 == length
    await executor.remove(name, force=True)


@pytest.mark.parametrize("patient", [True, False], ids=["graceful", "at-once"])
async def test_a_stop_comes_before_a_snapshot_that_is_being_written(
    executor: Executor, rootfs: Path, state: Path, patient: bool
) -> None:
    request = job(rootfs, "/bin/sh", "-c", "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    name = request.execution_id
    await executor.start(request)
    await until(executor, request, b"ready")
    (socket,) = state.glob("executions/*/vm/**/api.sock")
    slow, memory = socket.with_name("slow"), socket.with_name("memory")
    (folder,) = {path.parent for path in state.glob("executions/*/vm")}
    slow.touch()
    saving = asyncio.create_task(executor.snapshot(name, name))
    async with asyncio.timeout(_DEADLINE):
        while not memory.exists():
            await asyncio.sleep(0.01)
    stopping = asyncio.create_task(executor.cancel(name, grace=_DEADLINE if patient else 0))
    if patient:
        await _until_stopping(folder)
        slow.unlink()  # Firecracker answers that it has saved it
    with pytest.raises(ExecutionNotRunning, match="being stopped"):
        await asyncio.wait_for(saving, _DEADLINE)
    left = [memory, memory.with_name("state"), folder / "vm/memory", folder / "vm/memory.tmp", folder / "suspended"]
    assert not [path for path in left if path.exists()]
    await asyncio.wait_for(stopping, _DEADLINE)
    result = await executor.wait(name)
    ended = (5, None, b"ready\nasked\n") if patient else (137, 9, b"ready\n")
    assert (result.exit_code, result.signal, result.stdout) == ended, result
    assert (result.status, result.reason, result.error_msg) == ("cancelled", "cancelled", "cancelled"), result
    await executor.remove(name)


async def _until_stopping(folder: Path) -> None:
    """Until its shim has a stop in hand: who asks for a save then is refused, and before joins the one in hand."""
    async with asyncio.timeout(_DEADLINE):
        while True:
            shim = await connect(folder)
            assert shim is not None
            try:
                await asyncio.wait_for(shim.suspend(), 0.05)
            except TimeoutError:
                continue
            except ExecutionNotRunning:
                return
            finally:
                shim.close()


@_dear
@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_one_that_is_saved_ends_truly(executor: Executor, rootfs: Path, state: Path) -> None:
    request = job(rootfs, "sleep", "1000")
    name = request.execution_id
    await executor.start(request)
    await executor.snapshot(name, name)
    (memory,) = _saved(state)
    size = memory.stat().st_size
    with memory.open("r+b") as file:
        file.seek(size - 16)
        end = file.read()
        file.truncate(size - 16)
    with pytest.raises(StartFailed, match=r"it is saved as before: .*Failed to get snapshot state from file"):
        await executor.restore(name, name)
    with memory.open("ab") as file:
        file.write(end)
    await executor.restore(name, name)
    await executor.snapshot(name, name)
    await executor.cancel(name)
    result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
    assert (result.status, result.reason, result.signal) == ("cancelled", "cancelled", 9), result
    await executor.remove(name)
    assert not [*state.glob("executions/*/vm")]


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_a_release_that_would_lose_it_is_refused(executor: Executor, rootfs: Path) -> None:
    engine: Any = await executor._core.engine("firecracker")
    request = job(rootfs, "sleep", "1000")
    await executor.start(request)
    ready = engine._ready
    for version in ("v1.9.1", "v1.16.1"):
        host = msgspec.structs.replace(await ready(), version=version)

        async def other(host: Any = host) -> Any:
            return host

        engine._ready = other
        with pytest.raises(NotSupported, match=f"{version} loses a guest"):
            await executor.snapshot(request.execution_id, "lost")
        assert "snapshot" not in (await engine.probe()).capabilities
    engine._ready = ready
    await executor.remove(request.execution_id, force=True)


@_dear
@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_a_machine_of_the_users_own_is_refused(executor: Executor, tmp_path: Path) -> None:
    own = raw(tmp_path)
    await executor.start(own)
    with pytest.raises(NotSupported, match="nobody of ours"):
        await executor.snapshot(own.execution_id, "own")
    await executor.remove(own.execution_id, force=True)
