"""What a subject provides: its own traits, and the capabilities that its engine's probe declares on this host."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExecutorError
from ..executor import Executor
from ..types import Probe
from .subject import TRAITS, Subject

__all__ = ["Standing", "standing_of"]


@dataclass(frozen=True)
class Standing:
    """`problem`: why the engine cannot be used here, with its mend."""

    provides: frozenset[str]
    problem: str = ""


def standing_of(subject: Subject) -> Standing:
    """Asks the engine's probe. Blocks; for the time before any loop runs."""
    unknown = subject.traits - TRAITS.keys()
    if unknown:
        raise ValueError(f"{subject.title}: {', '.join(unknown)} is no trait; traits are {', '.join(TRAITS)}")
    subject.register()
    with tempfile.TemporaryDirectory(prefix="dms-executor-") as folder:
        try:
            probe = asyncio.run(_probe(subject, Path(folder)))
        except ExecutorError as error:
            return Standing(frozenset(), str(error))
    if not probe.usable:
        return Standing(frozenset(), f"{probe.problem}. {probe.mend}")
    return Standing(subject.traits | probe.capabilities)


async def _probe(subject: Subject, folder: Path) -> Probe:
    opening = Executor.open(folder / "state", policy=subject.policy(folder), settings=subject.settings())
    async with opening as executor:
        return (await executor.probe(subject.engine))[0]
