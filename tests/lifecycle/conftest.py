"""The stand-in engine, known for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dms_executor import registry

from .stand_in import StandIn


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    monkeypatch.setattr(registry, "_registered", {StandIn.name: StandIn})
    for state in (StandIn.failing, StandIn.times, StandIn.called):
        state.clear()
    yield StandIn
    StandIn.failing.clear()
