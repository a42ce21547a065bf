"""A command in a job that has only just begun to run."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.oci import OciSpec


async def test_a_commands_user_is_found_once_the_runtime_has_written_the_pid(
    state_dir: Path, busybox: Path, oci_runtime: str
) -> None:
    spec = OciSpec(image=f"rootfs:{busybox}", cmd=["sleep", "100"]).build()
    settings = Settings(engines={"oci": {"runtime": oci_runtime}})
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings) as executor:
        await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec))
        assert (await executor.exec("e", ["id", "-u"], user="app")).stdout == b"1000\n"
        # As it is while a runtime that has let the job go has not written it yet.
        pid = next(state_dir.glob("executions/*/pid"))
        pid.rename(pid.with_name("pid.later"))
        early = asyncio.create_task(executor.exec("e", ["id", "-u"], user="app"))
        done, _ = await asyncio.wait({early}, timeout=0.3)
        assert not done, f"the command did not wait: {early}"
        pid.with_name("pid.later").rename(pid)
        async with asyncio.timeout(20):
            assert (await early).stdout == b"1000\n"
        await executor.remove("e", force=True)
