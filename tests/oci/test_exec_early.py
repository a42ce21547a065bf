"""A command in a job that has only just begun to run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.errors import StartFailed
from dms_executor.oci import OciSpec


@pytest.mark.parametrize("user", ["app", None])
async def test_a_command_waits_until_the_runtime_has_written_the_pid(
    state_dir: Path, busybox: Path, oci_runtime: str, user: str | None
) -> None:
    expected = b"0\n" if user is None else b"1000\n"
    spec = OciSpec(image=f"rootfs:{busybox}", cmd=["sleep", "100"]).build()
    settings = Settings(engines={"oci": {"runtime": oci_runtime}})
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings) as executor:
        await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec))
        assert (await executor.exec("e", ["id", "-u"], user=user)).stdout == expected
        # As it is while a runtime that has let the job go has not written it yet.
        pid = next(state_dir.glob("executions/*/pid"))
        pid.rename(pid.with_name("pid.later"))
        early = asyncio.create_task(executor.exec("e", ["id", "-u"], user=user))
        done, _ = await asyncio.wait({early}, timeout=0.3)
        assert not done, f"the command did not wait: {early}"
        pid.with_name("pid.later").rename(pid)
        async with asyncio.timeout(20):
            assert (await early).stdout == expected
        await executor.remove("e", force=True)


async def test_a_command_is_described_though_the_runtime_has_not_written_that_the_job_runs(
    state_dir: Path, busybox: Path
) -> None:
    """crun writes `status` after it has let the job go, and reads a configuration that went with the job's secrets."""
    spec = OciSpec(image=f"rootfs:{busybox}", cmd=["sleep", "100"]).build()
    settings = Settings(engines={"oci": {"runtime": "crun"}})
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings) as executor:
        request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, secret_environment={"SECRET": "x"})
        await executor.start(request)
        async with asyncio.timeout(20):
            while not (status := list(state_dir.glob("executions/*/runtime/*/status"))):
                await asyncio.sleep(0.01)
        configuration = status[0].with_name("config.json")
        assert not configuration.exists()
        status[0].rename(status[0].with_name("status.later"))
        with pytest.raises(StartFailed, match="status"):
            await executor.exec("e", ["true"])
        assert b"SECRET" not in configuration.read_bytes()
        status[0].with_name("status.later").rename(status[0])
        assert (await executor.exec("e", ["sh", "-c", "echo ${SECRET-none}"])).stdout == b"none\n"
        await executor.remove("e", force=True)
