"""The calling program is killed at random moments while a daemon executes its jobs; each has its true end all the same.

At every step of a start, of a cancel and of a removal it is killed by the conformance suite's lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import Executor, Policy
from tests.daemons import SESSIONS
from tests.recovery.caller import settings
from tests.recovery.test_kill import call, check_all

pytestmark = [pytest.mark.timeout(900)]
KILLS = int(os.environ.get("DMS_EXECUTOR_DAEMON_KILLS", "2"))
_JOBS = 20 if "DMS_EXECUTOR_DAEMON_KILLS" in os.environ else 4
_WINDOW = 2.0 * float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))  # seconds in which most of a caller's jobs end


@pytest.fixture(params=["docker", "podman"])
def where(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[tuple[str, str]]:
    """An engine with its socket, and an image there; no container is left afterwards."""
    session = SESSIONS[request.param]
    if problem := session.missing():
        pytest.skip(problem)
    yield f"{request.param}:{session.daemon().socket}", session.with_image(rootfs)
    assert session.daemon().containers() == [], "containers are left behind"


@pytest.mark.skipif(
    "DMS_EXECUTOR_DAEMON_KILLS" not in os.environ,
    reason="a campaign of .ci/full: a start call that outlives its caller is the race of docs/docker.md",
)
async def test_a_caller_killed_at_any_moment_loses_no_execution(tmp_path: Path, where: tuple[str, str]) -> None:
    state, runs = tmp_path / "state", tmp_path / "runs"
    runs.mkdir()
    chance = random.Random(20_001)
    kills = callers = 0
    while kills < KILLS:
        caller = await call(state, where[1], runs, where[0], f"k{callers}", _JOBS)
        callers += 1
        assert caller.stdout is not None
        await caller.stdout.readline()
        while caller.returncode is None and not any(runs.glob(f"k{callers - 1}-*")):
            await asyncio.sleep(0.02)  # before its first job runs there is little to lose
        await asyncio.sleep(chance.uniform(0.0, _WINDOW))  # the moment is the point of this test
        with contextlib.suppress(ProcessLookupError):  # it may have seen all its jobs through
            caller.send_signal(signal.SIGKILL)
        kills += await caller.wait() == -signal.SIGKILL
    counts = await check_all(state, runs, where[0])
    print(f"{where[0].partition(':')[0]}: {kills} kills of {callers} callers: {counts}")
    assert counts.get("true end", 0) >= KILLS, counts


STARTER = """
import asyncio, sys
from dms_executor import ExecutionRequest, Executor, Policy
from tests.recovery.caller import settings, spec
async def main():
    state, image, where, script = sys.argv[1:]
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(where)) as executor:
        job = spec(image, where, ["sh", "-c", script])
        await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=job, timeout=1.0))
        print("started", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_timeout_holds_though_no_caller_lives(tmp_path: Path, where: tuple[str, str]) -> None:
    """The keeper ends it, and records its end; the state folder is read beside the package, which would settle it."""
    state = tmp_path / "state"
    script = "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(state), where[1], where[0], script),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert caller.stdout is not None
    assert await caller.stdout.readline() == b"started\n"
    caller.send_signal(signal.SIGKILL)
    await caller.wait()
    database = sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True)
    async with asyncio.timeout(60):
        while (found := database.execute("SELECT status, reason FROM executions").fetchone())[0] == "running":
            await asyncio.sleep(0.05)
    database.close()
    assert found == ("failed", "timed_out")
    async with Executor.open(state, policy=Policy.trusted(), settings=settings(where[0])) as executor:
        result = await executor.wait("e")
    assert (result.exit_code, result.reason, result.stdout) == (9, "timed_out", b"ready\nterm\n")
