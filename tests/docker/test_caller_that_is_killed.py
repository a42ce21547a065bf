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
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import Executor, Policy
from tests.daemons import SESSIONS
from tests.recovery.caller import request, settings
from tests.recovery.test_kill import call, check_all

from .relay import relayed

pytestmark = [pytest.mark.timeout(900)]
KILLS = int(os.environ.get("DMS_EXECUTOR_DAEMON_KILLS", "2"))
_JOBS = 20 if "DMS_EXECUTOR_DAEMON_KILLS" in os.environ else 4
_WINDOW = 2.0 * float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))  # seconds in which most of a caller's jobs end


@pytest.fixture(params=["docker", "podman"])
def where(request: pytest.FixtureRequest, rootfs: Path) -> Iterator[tuple[str, str]]:
    """An engine with its socket, and an image there; no container is left afterwards."""
    session = SESSIONS[request.param]
    session.needed()
    yield f"{request.param}:{session.daemon().socket}", session.with_image(rootfs)
    assert session.daemon().containers() == [], "containers are left behind"


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


HELD_BY = {"while it is undone": "DELETE", "as it loses its name": "/rename"}


@pytest.mark.parametrize(
    ("moment", "init"),
    [
        ("while we look", True),
        ("while it is undone", True),
        ("as it loses its name", False),
        ("while it is undone", False),
    ],
)
async def test_a_start_call_that_outlives_its_caller(
    tmp_path: Path, where: tuple[str, str], moment: str, init: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon lets the job go when recovery has seen that it had not: it is followed, or it does not run at all."""
    if not init:
        monkeypatch.setenv("DMS_EXECUTOR_WITHOUT_INIT", "1")
    engine, _, socket = where[0].partition(":")
    runs, state = tmp_path / "runs", tmp_path / "state"
    runs.mkdir()
    held, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    is_dead = False

    async def asked(what: str) -> None:
        if what.endswith("/start"):
            held.set()
            await go.wait()
        elif is_dead and HELD_BY.get(moment, "nothing") in what:
            go.set()
            await done.wait()

    async def answered(what: str) -> None:
        if what.endswith("/start"):
            done.set()
        elif what.endswith("/containers/json") and is_dead and moment == "while we look":
            go.set()
            while not (runs / "f-0").exists():
                await asyncio.sleep(0.02)

    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        relay = f"{engine}:{folder}/socket"
        async with asyncio.timeout(120), relayed(Path(socket), Path(folder) / "socket", asked=asked, answered=answered):
            caller = await call(state, where[1], runs, relay, "f", 1)
            await held.wait()
            caller.send_signal(signal.SIGKILL)
            await caller.wait()
            is_dead = True
            counts = await check_all(state, runs, relay)
    assert done.is_set(), "the start call was not served"
    assert counts == ({"undone": 1} if moment == "while it is undone" else {"true end": 1})


async def test_a_job_whose_start_call_broke_off_is_known_to_run(tmp_path: Path, where: tuple[str, str]) -> None:
    engine, _, socket = where[0].partition(":")
    runs = tmp_path / "runs"
    runs.mkdir()

    async def asked(_what: str) -> None:
        return

    async def answered(what: str) -> None:
        if what.endswith("/start"):
            while not (runs / "e").exists():
                await asyncio.sleep(0.02)
            raise ConnectionResetError

    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        relay = f"{engine}:{folder}/socket"
        async with asyncio.timeout(120), relayed(Path(socket), Path(folder) / "socket", asked=asked, answered=answered):
            async with Executor.open(tmp_path / "s", policy=Policy.trusted(), settings=settings(relay)) as executor:
                await executor.run(request("e", "quick", where[1], runs, relay))
            assert await check_all(tmp_path / "s", runs, relay) == {"true end": 1}


STARTER = """
import asyncio, sys
from dms_executor import ExecutionRequest, Executor, Policy
from tests.recovery.caller import request, settings, spec
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
