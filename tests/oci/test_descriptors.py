"""A process that runs out of file descriptors is told so, and loses nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.errors import ResourcesUnavailable
from dms_executor.oci import OciSpec

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the oci engine needs root")


async def test_running_out_of_descriptors_is_resources_unavailable(state_dir: Path, rootfs: Path) -> None:
    def request(number: int) -> ExecutionRequest:
        spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["sleep", "100"]).build()
        return ExecutionRequest(job_id="j", execution_id=f"e{number}", engine_spec=spec)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        await executor.start(request(0))
        started = 1
        # The shim inherits the limit, so it stays one that a real service has; what is free of it is little.
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(1024 - len(os.listdir("/proc/self/fd")) - 12)]
        try:
            with pytest.raises(ResourcesUnavailable, match="ulimit -n"):
                while started < 100:
                    await executor.start(request(started))
                    started += 1
        finally:
            for descriptor in filler:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await executor.start(request(1000))
        for number in (*range(started), 1000):
            await executor.cancel(f"e{number}", signal="KILL")
            assert (await executor.wait(f"e{number}")).status == "cancelled"
