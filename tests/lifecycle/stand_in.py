"""An engine for these tests: the in-memory one, whose calls can be made to fail, and which has outputs to collect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from dms_executor import ExecutionRequest, StorageVolume
from dms_executor.engine import Execution, Exit, Handle, Observed
from dms_executor.errors import ExecutorError
from dms_executor.testing import MemoryEngine, MemorySpec
from dms_executor.types import Output, SpecConfig

__all__ = ["StandIn", "request"]


class StandIn(MemoryEngine):
    """`failing` maps a call to what it raises, so often as `times` says, else always; `called` notes the calls."""

    name: ClassVar[str] = "stand-in"
    failing: ClassVar[dict[str, ExecutorError]] = {}
    times: ClassVar[dict[str, int]] = {}
    called: ClassVar[list[str]] = []
    outputs: ClassVar[bool] = False

    def _note(self, call: str) -> None:
        self.called.append(call)
        if call in self.failing and self.times.get(call, 1) > 0:
            if call in self.times:
                self.times[call] -= 1
            raise self.failing[call]

    async def validate(self, request: ExecutionRequest) -> None:
        """Takes all."""

    async def start(self, x: Execution, h: Handle) -> datetime:
        self._note("start")
        return await super().start(x, h)

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        self._note("stop")
        await super().stop(x, h, signum, grace)

    async def survey(self) -> Mapping[str, Observed]:
        self._note("survey")
        return await super().survey()

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        self._note("collect")
        return []

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        self._note("destroy")
        await super().destroy(x, h)


def request(execution_id: str, *script: str, outputs: bool = False, **fields: Any) -> ExecutionRequest:
    """A job of the stand-in; with `outputs` its end is committed before they are collected."""
    params = MemorySpec(script=list(script), prepare=fields.pop("prepare", 0.0)).build().params
    if outputs:
        fields["outputs"] = [StorageVolume(target="/output", source="/nowhere")]
    return ExecutionRequest(
        job_id="j", execution_id=execution_id, engine_spec=SpecConfig(type=StandIn.name, params=params), **fields
    )
