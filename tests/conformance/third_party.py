"""An engine of somebody else's, its subject, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec

from dms_executor import Probe
from dms_executor.conformance import MemorySubject
from dms_executor.engine import EngineContext, Execution, Handle
from dms_executor.testing import MemoryEngine

__all__ = ["Modest", "ModestSubject", "Secretive", "SecretiveSubject"]


class Modest(MemoryEngine):
    """The in-memory engine without the power to pause."""

    name: ClassVar[str] = "modest"
    pause: ClassVar[None] = None  # type: ignore[assignment]
    resume: ClassVar[None] = None  # type: ignore[assignment]

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Modest]:
        yield cls(context)

    async def probe(self) -> Probe:
        return _without_pause(await super().probe())


class Secretive(MemoryEngine):
    """Can pause, and says that it cannot."""

    name: ClassVar[str] = "secretive"

    async def probe(self) -> Probe:
        return _without_pause(await super().probe())

    async def pause(self, x: Execution, h: Handle) -> None:
        await super().pause(x, h)


class ModestSubject(MemorySubject):
    engine = "modest"
    engine_class = Modest


class SecretiveSubject(MemorySubject):
    engine = "secretive"
    engine_class = Secretive


def _without_pause(probe: Probe) -> Probe:
    return msgspec.structs.replace(probe, capabilities=probe.capabilities - {"pause"})
