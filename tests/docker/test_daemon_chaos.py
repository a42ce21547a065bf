"""A daemon that is killed again and again while executions start, write and end: true results, complete logs.

The long form, 20 executions: `DMS_EXECUTOR_DAEMON_KILLS=10`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from dms_executor import (
    ExecutionRequest,
    ExecutionResult,
    Executor,
    LogStreamRequest,
    Policy,
    Settings,
    StorageVolume,
)
from dms_executor.docker import DockerSpec
from dms_executor.errors import EngineUnavailable, ExecutorError
from tests.dockerd import SESSION, Dockerd

pytestmark = [pytest.mark.timeout(900)]
KILLS = int(os.environ.get("DMS_EXECUTOR_DAEMON_KILLS", "2"))
_IS_LONG = "DMS_EXECUTOR_DAEMON_KILLS" in os.environ
_JOBS = 20 if _IS_LONG else 5
_LINES = (150 if _IS_LONG else 100) * KILLS
_SCRIPT = (
    "echo {name} >> /runs/{name}; i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 7"
)
_WHOLE = b"".join(b"line %d\n" % number for number in range(_LINES))


def _request(name: str, runs: Path) -> ExecutionRequest:
    spec = DockerSpec(image=SESSION.image, cmd=["sh", "-c", _SCRIPT.format(name=name, lines=_LINES)]).build()
    volume = StorageVolume(source=str(runs), target="/runs")
    return ExecutionRequest(job_id="j", execution_id=name, engine_spec=spec, outputs=[volume])


async def _seen_through(executor: Executor, name: str, runs: Path) -> None:
    """Started as soon as there is a daemon; a start that fails later has its record."""
    while True:
        try:
            await executor.run(_request(name, runs))
        except EngineUnavailable:
            await asyncio.sleep(0.2)
        except ExecutorError as error:
            print(f"{name}: {error}")
            return
        else:
            return


async def _checked(executor: Executor, name: str, runs: Path) -> str:
    """One execution: its result, its log and how often it ran agree."""
    result: ExecutionResult = await asyncio.wait_for(executor.wait(name), 60)
    noted = runs / name
    times = (await asyncio.to_thread(noted.read_text)).count("\n") if noted.exists() else 0
    if result.reason == "start_failed":
        assert times == 0, f"{name} ran, but its record says {result}"
        return "never let go"
    assert times <= 1, f"{name} ran {times} times"
    async with await executor.get_log_stream(LogStreamRequest(execution_id=name)) as stream:
        log, gaps = await stream.read(), stream.gaps
    same = next((at for at, pair in enumerate(zip(log, _WHOLE, strict=False)) if pair[0] != pair[1]), len(log))
    seen = f"{name}: {len(log)} of {len(_WHOLE)} bytes, the same up to {same}, {gaps}: {log[same - 40 : same + 40]!r}"
    if result.reason == "engine_lost":
        assert same == len(log), seen
        assert gaps or log == _WHOLE, seen
        assert result.exit_code != 0
        return "lost with its daemon"
    assert (result.reason, result.exit_code) == ("exited", 7), f"{name}: {result}"
    assert times == 1
    assert len(log) + gaps.get("stdout", 0) == len(_WHOLE), seen
    if same == len(log):
        return "its end is said to be missing" if gaps else "true end"
    assert set(log.splitlines()) <= set(_WHOLE.splitlines()), seen
    return "a part is said to be missing"


_DAEMONS = [pytest.param(("--live-restore",), id="live-restore"), pytest.param((), id="plain")]


@pytest.mark.parametrize("daemon", _DAEMONS, indirect=True)
async def test_a_daemon_killed_at_any_moment_loses_nothing_silently(daemon: Dockerd, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    chance = random.Random(20_002)
    settings = Settings(engines={"docker": {"socket": str(daemon.socket)}})
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        names = [f"e{number}" for number in range(_JOBS)]
        jobs = [asyncio.create_task(_seen_through(executor, name, runs)) for name in names]
        for _ in range(KILLS):
            # Most of them, so that what is killed has something to lose; those that died with a daemon have run, too.
            while len(list(runs.iterdir())) < min(_JOBS * 3 // 4, sum(not job.done() for job in jobs)):
                await asyncio.sleep(0.02)
            await asyncio.sleep(chance.uniform(0.0, 2.0))  # the moment is the point of this test
            await asyncio.to_thread(daemon.stop, signal.SIGKILL)
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            await asyncio.to_thread(daemon.start)
        await asyncio.gather(*jobs)
        counts = Counter([await _checked(executor, name, runs) for name in names])
        await executor.cleanup()
    live = "--live-restore" in daemon.options
    print(f"{'live-restore' if live else 'plain'}: {KILLS} kills, {_JOBS} executions: {dict(counts)}")
    assert daemon.containers() == [], "containers are left behind"
    assert not live or counts["lost with its daemon"] == 0, counts
    assert not live or sum(counts.values()) > counts["never let go"], counts
