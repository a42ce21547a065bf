"""Jobs of the tests: a command in the tests' root file system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dms_executor import ExecutionRequest, Executor
from dms_executor.qemu import QemuSpec
from dms_executor.types import ExecutionResult

__all__ = ["job", "run"]


def job(rootfs: Path, name: str, *cmd: str, **fields: Any) -> ExecutionRequest:
    params = fields.pop("params", {})
    spec = QemuSpec(image=f"rootfs:{rootfs}", cmd=list(cmd), **params).build()
    return ExecutionRequest(job_id="job", execution_id=name, engine_spec=spec, **fields)


async def run(executor: Executor, rootfs: Path, name: str, script: str, **fields: Any) -> ExecutionResult:
    return await executor.run(job(rootfs, name, "sh", "-c", script, **fields))
