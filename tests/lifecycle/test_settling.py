"""What an earlier caller left is settled one by one; what cannot be settled now is later, and holds up nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, Policy, StorageVolume, recovery
from dms_executor.errors import EngineUnreachable, ExecutionNotFound
from dms_executor.journal import Journal
from dms_executor.oci import OciSpec

from .stand_in import StandIn, request

ROOT = Path(__file__).parents[2]


async def leave(state: Path, *requests: ExecutionRequest) -> None:
    """Claims of a caller that was killed before it had prepared anything."""
    async with Executor.open(state) as executor:
        journal = Journal(state, "a dead owner", durable=False)
        await journal.open()
        for each in requests:
            await journal.claim(executor._core.execution(each), StandIn.name, None)
        await journal.close()


async def test_one_that_cannot_be_settled_keeps_the_folder_from_nobody(
    state_dir: Path, stand_in: type[StandIn]
) -> None:
    await leave(state_dir, request("one"))
    stand_in.failing["destroy"] = EngineUnreachable("it cannot be destroyed")
    async with Executor.open(state_dir) as executor:
        await executor.start(request("two", "forever"))
        waiting = asyncio.create_task(executor.wait("one"))
        await asyncio.sleep(0.05)
        stand_in.failing.clear()
        assert (await asyncio.wait_for(waiting, 10)).reason == "start_failed"
        await executor.cancel("two")


async def test_what_a_silent_engine_keeps_is_settled_once_it_answers(state_dir: Path, stand_in: type[StandIn]) -> None:
    await leave(state_dir, request("one"))
    stand_in.failing["survey"] = EngineUnreachable("no answer")
    async with Executor.open(state_dir) as executor:
        waiting = asyncio.create_task(executor.wait("one"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        stand_in.failing.clear()
        assert (await asyncio.wait_for(waiting, 10)).reason == "start_failed"


async def test_an_execution_whose_engine_is_gone_can_be_removed(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dms_executor import registry

    async with Executor.open(state_dir) as executor:
        await executor.run(request("one"))
    monkeypatch.setattr(registry, "_registered", {})
    async with Executor.open(state_dir) as executor:
        await executor.remove("one")
        with pytest.raises(ExecutionNotFound):
            await executor.get_status("one")
    async with Executor.open(state_dir):
        pass


async def test_a_pause_whose_caller_died_before_it_said_so_is_told(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_arguments: object) -> bool:
        return True

    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "paused", killed)
            await executor.pause("one")
        assert await executor.get_status("one") is ExecutionStatus.RUNNING
    async with Executor.open(state_dir) as executor:
        assert await executor.get_status("one") is ExecutionStatus.PAUSED
        await executor.cancel("one")


async def test_secrets_go_with_a_start_that_fails_or_whose_caller_dies(
    state_dir: Path, stand_in: type[StandIn]
) -> None:
    stand_in.failing["start"] = EngineUnreachable("no")
    async with Executor.open(state_dir) as executor:
        with pytest.raises(EngineUnreachable):
            await executor.start(request("one", secret_environment={"KEY": "s3cret"}))
        assert not list(state_dir.glob("executions/*/secrets.json"))


OWNER = """
import asyncio, sys
from dms_executor import Executor, Policy
from tests.lifecycle.test_settling import job
async def main():
    async with Executor.open(sys.argv[1], policy=Policy.trusted()) as executor:
        await executor.start(job(sys.argv[2], sys.argv[3]))
        print("started", flush=True)
        await executor.wait("job")
asyncio.run(main())
"""


def job(rootfs: str, results: str) -> ExecutionRequest:
    return ExecutionRequest(
        job_id="j",
        execution_id="job",
        engine_spec=OciSpec(image=f"rootfs:{rootfs}", cmd=["sh", "-c", "sleep 1; exit 5"]).build(),
        results_dir=results,
        outputs=[StorageVolume(target="/output")],
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the oci engine needs root")
async def test_an_owner_that_dies_while_it_collects_leaves_no_waiter_waiting(
    state_dir: Path, rootfs: Path, tmp_path: Path
) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(state_dir), str(rootfs), str(tmp_path / "results")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "DMS_EXECUTOR_FAULT": "ended_committed"},
        cwd=ROOT,
    )
    if owner.stdout is None:
        raise RuntimeError("no pipe")
    assert await owner.stdout.readline() == b"started\n"
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        # Our own look at the end comes second, however the two are scheduled.
        engine = await executor._core.engine("oci")
        watch = engine.watch

        async def later(*arguments: object) -> object:
            end = await watch(*arguments)  # type: ignore[arg-type]
            await asyncio.sleep(0.5)
            return end

        engine.watch = later  # type: ignore[method-assign, assignment]
        result = await asyncio.wait_for(executor.wait("job"), 20)
    assert result.exit_code == 5
    assert await owner.wait() == -signal.SIGKILL


async def test_what_could_not_be_cleared_away_is_tried_again(state_dir: Path, stand_in: type[StandIn]) -> None:
    stand_in.failing["destroy"] = EngineUnreachable("not now")
    async with Executor.open(state_dir) as executor:
        assert (await executor.run(request("one", "exit 3"))).exit_code == 3
        stand_in.failing.clear()
        while await executor._core.journal.open_rows():
            await asyncio.wait_for(executor._core.changes.next(), 10)


async def test_a_deadline_holds_though_the_engine_is_silent_when_it_comes(
    state_dir: Path, stand_in: type[StandIn]
) -> None:
    stand_in.failing["stop"] = EngineUnreachable("not now")
    async with Executor.open(state_dir) as executor:
        running = asyncio.create_task(executor.run(request("one", "forever", timeout=0.1)))
        await asyncio.sleep(0.2)
        stand_in.failing.clear()
        assert (await asyncio.wait_for(running, 10)).reason == "timed_out"


async def test_a_silent_engine_slows_no_look(state_dir: Path, stand_in: type[StandIn]) -> None:
    await leave(state_dir, request("one"))
    stand_in.failing["survey"] = EngineUnreachable("no answer")
    async with Executor.open(state_dir, _follow=False) as executor:
        for _ in range(20):
            await executor.list()
        assert stand_in.called.count("survey") <= 2


async def test_an_engine_that_does_not_answer_in_time_is_told(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def survey_of(_self: StandIn, _tokens: object) -> None:
        await asyncio.Event().wait()

    await leave(state_dir, request("one"))
    monkeypatch.setattr(stand_in, "survey_of", survey_of)
    monkeypatch.setattr(recovery, "BUDGET", 0.05)
    async with Executor.open(state_dir, _follow=False) as executor:
        assert [info.request.execution_id for info in await executor.list()] == ["one"]
    assert ": no answer in 0.05 s; its executions stay as they are" in caplog.text


async def test_who_only_looks_writes_nothing(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.start(request("one", "forever"))
    written: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_transact", lambda _self, work, *_arguments: written.append(work))
        async with Executor.open(state_dir, _follow=False) as executor:
            assert [info.status for info in await executor.list()] == ["running"]
    assert written == []
    async with Executor.open(state_dir) as executor:
        await executor.cancel("one")
