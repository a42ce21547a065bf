"""Inputs and outputs over the stand-in, whose pods have a container before the job's and one beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor.kubernetes import hearing, transfers
from dms_executor.lifecycle import pull
from dms_executor.types import StorageVolume

from .apiserver import ApiServer
from .conftest import Bench, opened
from .test_breaks import heard


async def test_what_a_job_finds_and_leaves_goes_through_its_pod(
    alone: Bench, server: ApiServer, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "file").write_text("given")
    result = await alone.run(
        *("sh", "-c", "cat /in/deep/file >/out/file; echo x 2>/dev/null >/in/new || echo refused; exit 3"),
        inputs=[StorageVolume(source=str(tmp_path / "in"), target="/in")],
        outputs=[StorageVolume(source=str(tmp_path / "out"), target="/out")],
    )
    assert (result.exit_code, result.stdout) == (3, b"refused\n")
    assert (tmp_path / "out" / "file").read_text() == "given"
    await alone.executor.remove(result.execution_id)
    assert server.pods == {}


async def test_outputs_of_a_job_that_nobody_saw_end_outlive_a_silent_kubelet(
    server: ApiServer, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "_AGAIN", (0.01,))
    monkeypatch.setattr(pull, "BACKOFF", (0.01,))
    monkeypatch.setattr(transfers, "_BACKOFF", (0.01,))
    outputs = [StorageVolume(source=str(tmp_path / "out"), target="/out")]
    script = "trap 'echo late >/out/file; echo bye; exit 4' USR1; echo ready; while :; do sleep 1000 & wait $!; done"
    async with opened(state_dir, str(server.kubeconfig), clears=False) as bench:
        execution_id = await bench.start("sh", "-c", script, outputs=outputs)
        await heard(bench, execution_id, b"ready")
        name = await bench.pod(execution_id)
        sent = await server.containers[name].execute(["/dev/.dms-executor/dms-init", "-k", "10"], has_input=False)
    await sent.wait()
    await server.containers[name].ended.wait()
    assert server.pods[name]["status"]["phase"] == "Running"  # its outputs stand there
    server.requests.clear()
    server.stumbles |= {"GET log": 1 << 30, "GET exec": 3}
    async with opened(state_dir, str(server.kubeconfig)) as bench, asyncio.timeout(50):
        waiting = asyncio.create_task(bench.executor.wait(execution_id))
        while server.requests.get("GET log", 0) < 20:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        del server.stumbles["GET log"]
        result = await waiting
        assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")
    assert (tmp_path / "out" / "file").read_text() == "late\n"
    assert server.stumbles["GET exec"] == 0
    assert server.pods == {}
