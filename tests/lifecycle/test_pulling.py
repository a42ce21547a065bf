"""A log that an engine does not give: it is asked for again, ever more seldom, and nothing of it is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from dms_executor import Executor
from dms_executor.engine import Chunk, Execution, Handle
from dms_executor.errors import EngineUnreachable
from dms_executor.lifecycle import pull

from .stand_in import StandIn, request


class Hesitant(StandIn):
    """Gives `script`, one at a call: a chunk each, and an error, as an engine that does not answer."""

    script: ClassVar[list[bool]] = []

    async def output(self, x: Execution, h: Handle, after: bytes | None) -> AsyncIterator[Chunk]:
        """As the script says, then all."""
        if self.script:
            gives = self.script.pop(0)
            async for chunk in super().output(x, h, after):
                if gives:
                    yield chunk
                break
            raise EngineUnreachable("silent", mend="Wait")
        async for chunk in super().output(x, h, after):
            yield chunk


async def test_a_silent_engine_is_asked_ever_more_seldom_until_it_gives_something(
    state_dir: Path,
    stand_in: type[StandIn],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("dms_executor.registry._registered", {StandIn.name: Hesitant})
    monkeypatch.setattr(pull, "BACKOFF", (0.001, 0.002, 0.004))
    monkeypatch.setattr(pull, "_FOLLOWED", 3600.0)
    Hesitant.script[:] = [False] * 4 + [True] + [False] * 2
    with caplog.at_level(logging.WARNING, "dms_executor"):
        async with Executor.open(state_dir) as executor:
            result = await executor.run(request("one", "echo a", "echo b", "exit 3"))
    assert (result.exit_code, result.stdout) == (3, b"a\nb\n")
    pauses = [record.args[1] for record in caplog.records if isinstance(record.args, tuple) and len(record.args) == 2]
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.001, 0.002, 0.004]
