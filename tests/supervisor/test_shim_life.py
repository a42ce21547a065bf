"""Birth without a go, stops, deadlines, and deaths of every party."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dms_executor.engine import Exit
from dms_executor.errors import ExecutionNotRunning, StartFailed
from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import connect, create

from . import conftest
from .conftest import Words, descendants, name_of

Job = Callable[..., ShimSpec]


async def gone(pid: int) -> bool:
    return await asyncio.to_thread(conftest.gone, pid)


async def record(folder: Path) -> Exit:
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    return ended


async def test_nothing_runs_without_a_go(folder: Path, job: Job, tmp_path: Path) -> None:
    shim = await create(folder, job("touch", str(tmp_path / "ran")))
    shim.close()
    assert await gone(shim.pid)
    assert not (tmp_path / "ran").exists()
    assert os.listdir(folder) == []


async def test_a_cancelled_creation_leaves_nothing(folder: Path, job: Job) -> None:
    alive, held = os.pipe()
    task = asyncio.create_task(create(folder, job("true", passed=[held])))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(held)
    assert await asyncio.to_thread(os.read, alive, 1) == b"", "the shim that got the pipe is gone"
    os.close(alive)
    assert await _no_child_is_left()
    assert os.listdir(folder) == []


async def test_a_missing_folder_is_start_failed(tmp_path: Path, job: Job) -> None:
    with pytest.raises(StartFailed, match="No such file"):
        await create(tmp_path / "absent", job("true"))


async def test_a_cgroup_that_cannot_be_joined_is_named(folder: Path, job: Job) -> None:
    with pytest.raises(StartFailed, match=r"/no/such/cgroup\.procs"):
        await create(folder, job("true", cgroup_join=["/no/such/cgroup.procs"]))


async def test_go_is_idempotent(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    first, second = await asyncio.gather(shim.go(), shim.go())
    assert first == second == await shim.go()
    await shim.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_a_deadline_holds_with_nobody_connected(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60", timeout=0.2))
    await shim.go()
    shim.close()
    assert await gone(shim.pid)
    ended = await record(folder)
    assert (ended.stopped_by, ended.killed, ended.signal) == ("deadline", True, signal.SIGTERM)


@pytest.mark.parametrize("kind", ["job", "detached"])
async def test_a_stop_becomes_a_kill_after_its_grace(
    folder: Path, kind: str, request: pytest.FixtureRequest, words: Words
) -> None:
    script = f"trap '' TERM; echo up > {words}; while :; do sleep 60; done"
    make = request.getfixturevalue(kind)
    shim = await create(folder, make("sh", "-c", script) if kind == "job" else make(script))
    await shim.go()
    await words.come()
    await shim.stop(signal.SIGTERM, 0.2)
    shim.close()
    assert await gone(shim.pid)
    ended = await record(folder)
    assert (ended.code, ended.signal, ended.stopped_by, ended.killed) == (137, 9, "stop", True)


async def test_a_job_that_heeds_the_stop_keeps_its_own_code(folder: Path, job: Job, words: Words) -> None:
    shim = await create(folder, job("sh", "-c", f"trap 'exit 5' TERM; echo up > {words}; sleep 60 & wait"))
    await shim.go()
    await words.come()
    await shim.stop(signal.SIGTERM, 30)
    assert await shim.ended()
    ended = await record(folder)
    assert (ended.code, ended.signal, ended.stopped_by) == (5, None, "stop")


async def test_a_second_stop_joins_the_first(folder: Path, job: Job, words: Words) -> None:
    shim = await create(folder, job("sh", "-c", f"trap '' TERM; echo up > {words}; while :; do sleep 60; done"))
    await shim.go()
    await words.come()
    await shim.stop(signal.SIGTERM, 600, "deadline")
    await shim.stop(signal.SIGTERM, 0.1)
    async with asyncio.timeout(5):
        assert await shim.ended()
    assert (await record(folder)).stopped_by == "deadline"


async def test_a_stop_before_the_go_runs_nothing(folder: Path, job: Job) -> None:
    shim = await create(folder, job("true"))
    await shim.stop(signal.SIGTERM, 1)
    assert await shim.ended() is False
    assert await gone(shim.pid)


async def test_a_stop_while_the_runtime_hangs_ends_it(folder: Path) -> None:
    spec = ShimSpec(argv=["/bin/sleep", "60"], environment={}, log_cap=1 << 20, segment=1 << 18)
    shim = await create(folder, spec)
    going = asyncio.create_task(shim.go())
    await asyncio.sleep(0.05)
    await shim.stop(signal.SIGTERM, 0.1)
    with pytest.raises(StartFailed, match="stopped before it started"):
        await going
    assert await shim.ended()


async def test_signals_reach_the_main_process_only_while_it_runs(folder: Path, job: Job, words: Words) -> None:
    shim = await create(folder, job("sh", "-c", f"trap 'exit 8' USR1; echo up > {words}; sleep 60 & wait"))
    with pytest.raises(ExecutionNotRunning):
        await shim.signal(signal.SIGUSR1)
    await shim.go()
    await words.come()
    await shim.signal(signal.SIGUSR1)
    assert await shim.ended()
    with pytest.raises(ExecutionNotRunning):
        await shim.signal(signal.SIGUSR1)
    await shim.stop(signal.SIGTERM, 1)
    assert ((await record(folder)).code, (await record(folder)).killed) == (8, True)


async def test_a_frozen_job_is_thawed_before_it_is_stopped(folder: Path, job: Job, tmp_path: Path) -> None:
    state = tmp_path / "freezer.state"
    state.write_text("FROZEN")
    shim = await create(folder, job("sleep", "60", thaw=[(str(state), "THAWED")]))
    await shim.go()
    await shim.stop(signal.SIGTERM, 5)
    assert await shim.ended()
    assert state.read_text() == "THAWED"


@pytest.mark.parametrize("kind", ["job", "detached"])
async def test_a_killed_shim_takes_init_and_job_along(
    folder: Path, kind: str, request: pytest.FixtureRequest, words: Words
) -> None:
    script = f"echo up > {words}; exec sleep 60"
    make = request.getfixturevalue(kind)
    shim = await create(folder, make("sh", "-c", script) if kind == "job" else make(script))
    await shim.go()
    await words.come()
    children = await asyncio.to_thread(descendants, shim.pid)
    assert children
    os.kill(shim.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await shim.ended() is False
    for pid in children:
        assert await gone(pid), f"process {pid} survived its shim"
    assert await asyncio.to_thread(read_exit, folder) is None


async def test_an_init_that_is_killed_from_outside_is_told(folder: Path, detached: Job, words: Words) -> None:
    shim = await create(folder, detached(f"echo up > {words}; sleep 60"))
    await shim.go()
    await words.come()
    inits = [pid for pid in await asyncio.to_thread(descendants, shim.pid) if name_of(pid) == "dms-init"]
    os.kill(inits[0], signal.SIGKILL)
    async with asyncio.timeout(10):
        assert await shim.ended()
    ended = await record(folder)
    assert ended.killed is False
    assert ended.lost is not None or (ended.code, ended.signal) == (137, 9)


async def test_another_process_finds_the_shim_again(folder: Path, job: Job) -> None:
    first = await create(folder, job("sleep", "60"))
    second = await connect(folder)
    assert second is not None
    assert (second.phase, second.pid, second.start_time) == ("created", first.pid, first.start_time)
    started = await first.go()
    third = await connect(folder)
    assert third is not None
    assert (third.phase, third.started_at) == ("running", started)
    await third.stop(signal.SIGKILL, 0)
    assert await asyncio.gather(first.ended(), second.ended(), third.ended()) == [True, True, True]
    assert await connect(folder) is None


async def test_many_await_the_end_and_one_that_is_cancelled_harms_nobody(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "0.2"))
    await shim.go()
    waiters = [asyncio.create_task(shim.ended()) for _ in range(50)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    assert await asyncio.gather(*waiters[1:]) == [True] * 49
    assert await shim.ended()


async def test_the_intermediate_process_is_reaped(folder: Path, job: Job) -> None:
    shim = await create(folder, job("true"))
    await shim.go()
    assert await shim.ended()
    assert await _no_child_is_left()


async def _no_child_is_left() -> bool:
    shims = [pid for pid in await asyncio.to_thread(descendants, os.getpid()) if name_of(pid) == "dms-shim"]
    for pid in shims:
        await gone(pid)
    await asyncio.sleep(0)  # the loop, told at the same time, takes its turn
    await asyncio.sleep(0)
    return not set(shims) & set(await asyncio.to_thread(descendants, os.getpid()))
