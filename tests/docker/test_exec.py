"""What the conformance suite does not ask of a further command in a container: who calls, who kills, what stays."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dms_executor.docker.session import Started, open_called
from dms_executor.errors import StartFailed
from dms_executor.supervisor import frames

from .session import Bench, opened


@pytest.fixture(params=["docker", "podman"])
async def bench(state_dir: Path, rootfs: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with opened(state_dir, rootfs, engine=request.param) as ready:
        yield ready


async def _job(bench: Bench, **fields: object) -> str:
    # As pid 1 it would not heed a signal that it does not handle.
    request = bench.request("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait", **fields)
    await bench.executor.start(request)
    return str(request.execution_id)


async def test_another_process_that_answers_is_given_nothing(tmp_path: Path) -> None:
    impostor = socket.socket(socket.AF_UNIX)
    us = os.getpid()

    async def begin(name: str) -> Callable[[], Awaitable[Started]]:
        await asyncio.to_thread(impostor.connect, str(tmp_path / name))
        said = frames.pack(frames.INIT_BORN) + frames.pack(frames.INIT_STARTED, bytes(8))
        await asyncio.to_thread(impostor.send, said)

        async def look() -> Started:
            return Started(us + 1, None)

        return look

    with impostor:
        with pytest.raises(StartFailed, match="another process"):
            await open_called(tmp_path, begin, terminal=False)
        with pytest.raises(ConnectionResetError):  # what it said was not even read
            await asyncio.to_thread(impostor.recv, 100)
    assert list(tmp_path.iterdir()) == []


async def test_an_init_that_ends_without_a_call_is_told(tmp_path: Path) -> None:
    async def begin(name: str) -> Callable[[], Awaitable[Started]]:
        async def look() -> Started:
            return Started(1234, 126)

        return look

    with pytest.raises(StartFailed, match="126"):
        await open_called(tmp_path, begin, terminal=False)
    assert list(tmp_path.iterdir()) == []


async def test_a_command_that_kills_its_init_has_the_daemons_word(bench: Bench) -> None:
    execution_id = await _job(bench)
    result = await bench.executor.exec(
        execution_id, ["sh", "-c", "read word; kill -9 $PPID; exec sleep 1000"], stdin=b"go\n"
    )
    assert (result.exit_code, result.stdout, result.timed_out) == (137, b"", False)


async def test_nothing_stays_of_a_call(bench: Bench, state_dir: Path) -> None:
    execution_id = await _job(bench)
    assert (await bench.executor.exec(execution_id, ["true"])).exit_code == 0
    with pytest.raises(StartFailed):
        await bench.executor.exec(execution_id, ["/no/such"])
    with pytest.raises(StartFailed):
        await bench.executor.exec(execution_id, ["true"], working_directory="/no/such")
    calls = [path for path in state_dir.rglob("calls") if path.is_dir()]
    assert [list(folder.iterdir()) for folder in calls] == [[]]
    listed = await bench.executor.exec(
        execution_id, ["sh", "-c", "ls /dev/.dms-executor-calls; touch /dev/.dms-executor-calls/x"]
    )
    assert (listed.exit_code, listed.stdout) == (1, b"")
    assert b"Read-only" in listed.stderr


async def test_a_job_without_our_init_takes_commands_too(bench: Bench) -> None:
    execution_id = await _job(bench, init=False)
    result = await bench.executor.exec(execution_id, ["sh", "-c", "cat; exit 4"], stdin=b"in")
    assert (result.exit_code, result.stdout) == (4, b"in")


async def test_a_user_that_is_not_root_opens_its_streams_by_name(bench: Bench) -> None:
    execution_id = await _job(bench, params={"user": "1000"})
    script = "echo out >/dev/stdout; echo err >/dev/stderr; id -u"
    result = await bench.executor.exec(execution_id, ["sh", "-c", script])
    assert (result.stdout, result.stderr) == (b"out\n1000\n", b"err\n")
