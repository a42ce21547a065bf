"""Engines of later releases tell what is missing, and refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor.docker import DockerEngine
from dms_executor.engine import EngineContext
from dms_executor.errors import EngineUnavailable
from dms_executor.firecracker import FirecrackerEngine
from dms_executor.planned import PlannedEngine
from dms_executor.policy import Policy
from dms_executor.qemu import QemuEngine
from dms_executor.types import ExecutionRequest, SpecConfig


@pytest.mark.parametrize("kind", [DockerEngine, FirecrackerEngine, QemuEngine])
async def test_a_planned_engine(kind: type[PlannedEngine], tmp_path: Path) -> None:
    context = EngineContext(state_dir=tmp_path, executor_id="e", settings=None, policy=Policy())
    async with kind.open(context) as engine:
        probe = await engine.probe()
        assert not probe.usable
        assert "later release" in probe.problem
        assert probe.mend
        with pytest.raises(EngineUnavailable):
            await engine.validate(ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'HTTP/1.0 200 OK\r\n\r\n{"Version":"20.10"}', ""),
        (b"HTTP/1.0 500\r\n\r\n", "does not answer"),
        (None, "does not answer"),
    ],
)
async def test_the_docker_daemon_is_asked(
    answer: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await asyncio.sleep(30)
        writer.write(answer or b"")
        writer.close()

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/d.sock")
    monkeypatch.setattr("dms_executor.docker._DEADLINE", 0.3)
    server = await asyncio.start_unix_server(serve, f"{tmp_path}/d.sock")
    context = EngineContext(state_dir=tmp_path, executor_id="e", settings=None, policy=Policy())
    async with DockerEngine.open(context) as engine:
        probe = await engine.probe()
    server.close()
    assert said in probe.problem
    assert probe.version == ("" if said else "20.10")
