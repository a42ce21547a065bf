"""Engines of a later release: their probe tells truly what this host lacks, and everything else is refused."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import ClassVar, Self

import msgspec

from .engine import Engine, EngineContext, Execution, Exit, Handle, Observed, Prepared, Report
from .errors import EngineUnavailable
from .types import ExecutionRequest, Output, Probe

__all__ = ["Missing", "PlannedEngine", "PlannedSettings", "missing_kvm"]

_KVM = "/dev/kvm"


class PlannedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No settings yet."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What the host lacks, and how to mend it; `problem` empty: nothing, with the `version` that was found."""

    problem: str = ""
    mend: str = ""
    version: str = ""


class PlannedEngine(Engine):
    """Never usable in this release. A subclass says in `look` what its host needs."""

    params: ClassVar[type[msgspec.Struct]] = PlannedSettings
    settings: ClassVar[type[msgspec.Struct]] = PlannedSettings
    keeps_log: ClassVar[bool] = True
    keeps_deadline: ClassVar[bool] = True

    def __init__(self, context: EngineContext) -> None:
        self._context = context

    @classmethod
    @asynccontextmanager
    async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
        """Opens nothing."""
        yield cls(context)

    @abstractmethod
    async def look(self) -> Missing:
        """What the host lacks."""

    async def probe(self) -> Probe:
        """Not usable; says first what the host lacks."""
        found = await self.look()
        later = f"the {self.name} engine comes with a later release"
        problem = f"{found.problem}; and {later}" if found.problem else later
        mend = f"{found.mend}. Until then use the engine oci" if found.mend else "Use the engine oci until then"
        return Probe(engine=self.name, usable=False, version=found.version, problem=problem, mend=mend)

    def _refusal(self) -> EngineUnavailable:
        return EngineUnavailable(f"the {self.name} engine comes with a later release", mend="Use the engine oci")

    async def validate(self, request: ExecutionRequest) -> None:
        raise self._refusal()

    async def prepare(self, x: Execution, report: Report) -> Prepared:
        raise self._refusal()

    async def create(self, x: Execution, p: Prepared) -> Handle:
        raise self._refusal()

    async def start(self, x: Execution, h: Handle) -> datetime:
        raise self._refusal()

    async def survey(self) -> Mapping[str, Observed]:
        raise self._refusal()

    async def watch(self, x: Execution, h: Handle) -> Exit:
        raise self._refusal()

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        raise self._refusal()

    async def stop(self, x: Execution, h: Handle, signum: int, grace: float) -> None:
        raise self._refusal()

    async def collect(self, x: Execution, h: Handle, exit: Exit) -> list[Output]:
        raise self._refusal()

    async def destroy(self, x: Execution, h: Handle | None) -> None:
        raise self._refusal()


def missing_kvm() -> str:
    """Why KVM cannot be used; empty where it opens. Blocks."""
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{_KVM} does not exist (virtualisation is off in the firmware, or kvm is not loaded)"
    except OSError as error:
        return f"{_KVM} cannot be opened: {error.strerror}"
    return ""
