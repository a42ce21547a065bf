"""A daemon that is killed while jobs run, with and without `live-restore`: true results, complete logs."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, SpecConfig
from dms_executor.docker import DockerSpec
from tests.dockerd import SESSION, Dockerd

_COUNT = 3


def _settings(daemon: Dockerd) -> Settings:
    return Settings(engines={"docker": {"socket": str(daemon.socket)}})


def _spec(script: str) -> SpecConfig:
    return DockerSpec(image=SESSION.image, cmd=["sh", "-c", script]).build()


async def _heard(executor: Executor, execution_id: str, text: bytes) -> None:
    seen = b""
    async with await executor.get_log_stream(LogStreamRequest(execution_id=execution_id, follow=True)) as stream:
        async for chunk in stream:
            seen += chunk
            if text in seen:
                return
    raise AssertionError(f"{execution_id} ended without {text!r}")


@pytest.mark.parametrize("daemon", [("--live-restore",)], indirect=True, ids=["live-restore"])
async def test_jobs_go_on_without_their_daemon_and_lose_no_output(daemon: Dockerd, tmp_path: Path) -> None:
    """What a job writes while there is no daemon waits for the next one."""
    (tmp_path / "in").mkdir()
    mounts = Policy(read_roots=(tmp_path,), write_roots=(tmp_path,), missing_defaults="record")
    script = "echo ready; i=0; while [ ! -e /in/go ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo last $i; exit 7"
    async with Executor.open(tmp_path / "state", policy=mounts, settings=_settings(daemon)) as executor:
        names = [f"e{number}" for number in range(_COUNT)]
        volume = {"source": str(tmp_path / "in"), "target": "/in"}
        for name in names:
            request = {"job_id": "j", "execution_id": name, "engine_spec": _spec(script), "inputs": [volume]}
            await executor.start(_request(request))
            await _heard(executor, name, b"ready\n1\n2\n")
        await asyncio.to_thread(daemon.stop, signal.SIGKILL)
        await asyncio.to_thread(daemon.start)
        (tmp_path / "in" / "go").touch()
        results = [await executor.wait(name) for name in names]
        for result in results:
            assert (result.exit_code, result.reason) == (7, "exited"), result
            numbers = result.stdout.decode().split("\n")
            last = int(numbers[-2].split()[1])
            assert numbers == ["ready", *map(str, range(1, last + 1)), f"last {last}", ""]
        await executor.cleanup()
    assert daemon.containers() == []


async def test_a_job_that_died_with_its_daemon_is_lost(daemon: Dockerd, tmp_path: Path) -> None:
    """Without live-restore a daemon that comes up ends what it finds running."""
    trusted = Policy.trusted()
    async with Executor.open(tmp_path / "state", policy=trusted, settings=_settings(daemon)) as executor:
        await executor.start(
            ExecutionRequest(job_id="j", execution_id="e", engine_spec=_spec("echo ready; exec sleep 1000"))
        )
        await _heard(executor, "e", b"ready")
        await asyncio.to_thread(daemon.stop, signal.SIGKILL)
        assert await executor.get_status("e") == "running", "a daemon that is away says nothing of its jobs"
        await asyncio.to_thread(daemon.start)
        result = await executor.wait("e")
    assert (result.status, result.reason) == ("failed", "engine_lost"), result
    assert result.exit_code != 0
    assert result.stdout == b"ready\n"


def _request(fields: dict[str, object]) -> ExecutionRequest:
    from dms_executor.types import decode, encode

    return decode(encode(fields), ExecutionRequest)
