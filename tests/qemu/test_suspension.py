"""A VM that is saved to disk and goes on: nothing that its job wrote is lost, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.errors import (
    EngineUnreachable,
    ExecutionNotFound,
    ExecutionNotRunning,
    InvalidRequest,
    NotSupported,
    ResourcesUnavailable,
)
from dms_executor.policy import Policy
from dms_executor.types import LogStreamRequest, Settings
from tests import qemus
from tests.qemu.jobs import job
from tests.saves import until_suspending

pytestmark = [qemus.needed, pytest.mark.timeout(300)]

_DEADLINE = 120.0
_LINES = "i=0; while [ ! -e /tmp/end ]; do echo line $i; i=$((i+1)); sleep 0.01; done; date +%s; exit 7"
_CALLER = """
import asyncio, sys
from pathlib import Path
from dms_executor import Executor
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus

async def main(state, what, name):
    settings = Settings(engines={"qemu": qemus.settings()})
    async with Executor.open(Path(state), policy=Policy.trusted(), settings=settings) as executor:
        call = executor.snapshot(name, name) if what == "snapshot" else executor.restore(name, name)
        await call

asyncio.run(main(*sys.argv[1:]))
"""


async def _killed(state: Path, what: str, name: str, point: str) -> None:
    """A caller that is killed at that point of a snapshot or a restore."""
    environment = {**os.environ, "DMS_EXECUTOR_FAULT": point}
    command = [sys.executable, "-c", _CALLER, str(state), what, name]
    caller = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await asyncio.wait_for(caller.wait(), _DEADLINE) == -signal.SIGKILL


def _numbered(log: bytes) -> None:
    lines = log.splitlines()[:-1]
    assert lines == [b"line %d" % number for number in range(len(lines))]


def _runs(pid: int) -> bool:
    """Whoever has ended may wait for its parent still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _child(pid: int) -> int:
    """Its only one: the shim has dms-vm, and that the monitor."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def _processes(executor: Executor, name: str) -> dict[str, int]:
    shim = int((await executor.inspect(name)).engine_ids["shim"])
    keeper = await asyncio.to_thread(_child, shim)
    return {"shim": shim, "keeper": keeper, "monitor": await asyncio.to_thread(_child, keeper)}


async def _suspending(state: Path, name: str) -> None:
    """Its shim has the save in hand."""

    def folder_of() -> Path:
        folders = [path.parent for path in (state / "executions").glob("*/request.json")]
        (found,) = [folder for folder in folders if f'"{name}"' in (folder / "request.json").read_text()]
        return found

    folder = await asyncio.to_thread(folder_of)
    await until_suspending(folder, _DEADLINE)


async def _log(executor: Executor, name: str) -> bytes:
    stream = await executor.get_log_stream(LogStreamRequest(execution_id=name))
    return b"".join([data async for data in stream])


async def test_a_job_that_writes_all_the_while_loses_nothing(executor: Executor, rootfs: Path) -> None:
    await executor.start(job(rootfs, "writes", "sh", "-c", _LINES, timeout=600.0))
    waiting = asyncio.create_task(executor.wait("writes"))
    for number in range(2):
        name = f"night-{number}"
        await executor.snapshot("writes", name)
        info = await executor.inspect("writes")
        assert (info.status, info.saved_as) == ("paused", name)
        assert not waiting.done()
        with pytest.raises(ExecutionNotRunning, match=f"saved to disk as {name}"):
            await executor.send_signal("writes", "USR1")
        with pytest.raises(NotSupported):
            await executor.restore(name, "another")
        with pytest.raises(ExecutionNotFound):
            await executor.restore("nothing", "writes")
        await executor.restore(name, "writes")
        assert (await executor.inspect("writes")).saved_as is None
    await executor.exec("writes", ["touch", "/tmp/end"])
    result = await asyncio.wait_for(waiting, _DEADLINE)
    assert (result.reason, result.exit_code) == ("exited", 7), result
    log = await _log(executor, "writes")
    _numbered(log)
    assert abs(int(log.splitlines()[-1]) - result.finished_at.timestamp()) < 60


@pytest.mark.skipif(
    not os.environ.get("DMS_EXECUTOR_ALL_LINES"),
    reason="two programs die for each step: with DMS_EXECUTOR_ALL_LINES, as .ci/full has it",
)
async def test_whoever_is_killed_meanwhile_it_is_saved_or_runs(rootfs: Path, state: Path) -> None:
    name = "killed"

    def opened() -> AbstractAsyncContextManager[Executor]:
        return Executor.open(state, policy=Policy.trusted(), settings=Settings(engines={"qemu": qemus.settings()}))

    async with opened() as executor:
        await executor.start(job(rootfs, name, "sh", "-c", _LINES))
    await _killed(state, "snapshot", name, "saving_committed")
    async with opened() as executor:
        info = await executor.inspect(name)
        assert (info.status, info.saved_as) == ("running", None)
    await _killed(state, "snapshot", name, "saved")
    async with opened() as executor:
        info = await executor.inspect(name)
        assert (info.status, info.saved_as) == ("paused", name)
    await _killed(state, "restore", name, "restored")
    async with opened() as executor:
        info = await executor.inspect(name)
        assert (info.status, info.saved_as) == ("running", None)
    async with opened() as executor:
        await executor.exec(name, ["touch", "/tmp/end"])
        result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
        assert (result.reason, result.exit_code) == ("exited", 7), result
        _numbered(await _log(executor, name))


@pytest.mark.parametrize("is_silent", [False, True], ids=["at-once", "once-its-engine-tells"])
async def test_a_caller_that_is_killed_while_it_saves_is_followed_by_the_next(
    rootfs: Path, state: Path, monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    name = "followed-unseen" if is_silent else "followed"

    def opened() -> AbstractAsyncContextManager[Executor]:
        return Executor.open(state, policy=Policy.trusted(), settings=Settings(engines={"qemu": qemus.settings()}))

    async with opened() as executor:
        await executor.start(job(rootfs, name, "sh", "-c", _LINES))
        monitor = (await _processes(executor, name))["monitor"]
    os.kill(monitor, signal.SIGSTOP)  # so that the save does not come to its end
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", _CALLER, str(state), "snapshot", name)
    try:
        await _suspending(state, name)
    finally:
        caller.kill()
        await caller.wait()
    if is_silent:
        monkeypatch.setattr("dms_executor.microvm.engine.survey", _silent)
    async with opened() as executor:
        info = await executor.inspect(name)
        assert info.stale or not is_silent
        monkeypatch.undo()
        os.kill(monitor, signal.SIGCONT)
        assert (info.status, info.saved_as) == ("running", None)
        await asyncio.wait_for(executor.wait_for_status(name, "paused"), _DEADLINE)
        assert (await executor.inspect(name)).saved_as == name
        await executor.restore(name, name)
        await executor.exec(name, ["touch", "/tmp/end"])
        result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
        assert (result.reason, result.exit_code) == ("exited", 7), result
        _numbered(await _log(executor, name))


async def _silent(*_: object) -> None:
    raise EngineUnreachable("it does not tell")


async def test_a_stop_comes_before_a_save_that_is_in_hand(executor: Executor, rootfs: Path, state: Path) -> None:
    name = "stopped"
    script = "trap 'echo asked; exit 5' TERM; echo ready; touch /tmp/ready; while :; do sleep 0.1; done"
    await executor.start(job(rootfs, name, "sh", "-c", script))
    await executor.exec(name, ["sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.05; done"])
    monitor = (await _processes(executor, name))["monitor"]
    os.kill(monitor, signal.SIGSTOP)
    try:
        saving = [asyncio.create_task(executor.snapshot(name, "one")) for _ in range(2)]
        await _suspending(state, name)
        with pytest.raises(NotSupported, match="being saved"):
            await executor.pause(name)
        with pytest.raises(ExecutionNotRunning, match="saved as one"):
            await executor.snapshot(name, "two")
        stopping = asyncio.create_task(executor.cancel(name, grace=_DEADLINE))
        for task in saving:
            with pytest.raises(ExecutionNotRunning, match="being stopped"):
                await asyncio.wait_for(task, _DEADLINE)
    finally:
        os.kill(monitor, signal.SIGCONT)
    await asyncio.wait_for(stopping, _DEADLINE)
    result = await executor.wait(name)
    assert (result.status, result.exit_code) == ("cancelled", 5), result
    assert result.stdout == b"ready\nasked\n"


@pytest.mark.skipif(not os.environ.get("DMS_EXECUTOR_ALL_LINES"), reason="a VM for each: as .ci/full has it")
@pytest.mark.parametrize("killed", ["shim", "keeper", "monitor"])
async def test_one_of_which_something_is_killed_while_it_is_saved_is_lost(
    executor: Executor, rootfs: Path, state: Path, killed: str
) -> None:
    name = f"lost-{killed}"
    await executor.start(job(rootfs, name, "sleep", "1000"))
    pids = await _processes(executor, name)
    os.kill(pids["monitor"], signal.SIGSTOP)
    saving = asyncio.create_task(executor.snapshot(name, name))
    await _suspending(state, name)
    os.kill(pids[killed], signal.SIGKILL)
    with pytest.raises(ExecutionNotRunning):
        await asyncio.wait_for(saving, _DEADLINE)
    result = await asyncio.wait_for(executor.wait(name), _DEADLINE)
    assert (result.reason, result.exit_code) == ("engine_lost", None), result


async def test_one_that_finds_no_room_goes_on(
    executor: Executor, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "roomless"
    await executor.start(job(rootfs, name, "sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 4"))
    monkeypatch.setattr("dms_executor.microvm.saving._RESERVE", 1 << 62)
    monitor = (await _processes(executor, name))["monitor"]
    words = Path(f"/proc/{monitor}/cmdline").read_bytes().decode().split("\0")
    memory = words[words.index("-m") + 1].removesuffix("M")
    with pytest.raises(ResourcesUnavailable, match=f"may take {memory} MiB, and .* are free"):
        await executor.snapshot(name, name)
    monkeypatch.undo()
    info = await executor.inspect(name)
    assert (info.status, info.saved_as) == ("running", None)
    await executor.pause(name)
    await executor.snapshot(name, f"{name}-2")
    await executor.restore(f"{name}-2", name)
    await executor.exec(name, ["touch", "/tmp/end"])
    assert (await asyncio.wait_for(executor.wait(name), _DEADLINE)).exit_code == 4


async def test_one_that_is_saved_ends_truly(executor: Executor, rootfs: Path, state: Path) -> None:
    await executor.start(job(rootfs, "cancelled", "sleep", "1000"))
    shim = int((await executor.inspect("cancelled")).engine_ids["shim"])
    async with await executor.exec_session("cancelled", ["sleep", "1000"]):
        with pytest.raises(NotSupported, match="a further command runs in it"):
            await executor.snapshot("cancelled", "ends")
    await executor.snapshot("cancelled", "ends")
    await executor.start(job(rootfs, "other", "sleep", "1000"))
    with pytest.raises(InvalidRequest, match="is there already"):
        await executor.snapshot("other", "ends")
    await executor.remove("other", force=True)
    assert not await asyncio.to_thread(_runs, shim)
    waiting = asyncio.create_task(executor.wait("cancelled"))
    await executor.cancel("cancelled")
    result = await asyncio.wait_for(waiting, _DEADLINE)
    assert (result.status, result.reason, result.signal) == ("cancelled", "cancelled", 9), result
    assert "saved to disk" in result.error_msg
    await executor.remove("cancelled")
    kept = [path.read_text() for path in (state / "executions").glob("*/request.json")]
    assert not any('"cancelled"' in text for text in kept)
