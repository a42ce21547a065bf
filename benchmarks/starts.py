"""How long a start of a microVM takes, for the measurements of each engine that has them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.types import SpecConfig


async def measured(state: Path, policy: Policy, engine: dict[str, Any], spec: SpecConfig, number: int) -> float:
    """Seconds until `start` returns, which is when the job runs, of one job by an executor with these settings."""
    kind = spec.type or ""
    async with Executor.open(state, policy=policy, settings=Settings(engines={kind: engine})) as executor:
        await executor.probe(kind)  # what a process looks at once
        name = f"job-{number}"
        began = time.perf_counter()
        await executor.start(ExecutionRequest(job_id="bench", execution_id=name, engine_spec=spec))
        took = time.perf_counter() - began
        await executor.cancel(name, grace=0)
        await executor.wait(name)
        return took
