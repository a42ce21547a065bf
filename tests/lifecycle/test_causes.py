"""Why an execution ended, where its engine's clock is another machine's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from dms_executor.engine import EngineContext, Execution, Exit
from dms_executor.journal import Intent
from dms_executor.lifecycle import Live
from dms_executor.lifecycle.finish import build_result
from dms_executor.policy import Policy
from dms_executor.testing import MemorySettings

from .stand_in import StandIn, request

_CANCELLED = Intent(cause="cancelled", signal=15, grace=1.0, time=1_800_000_000 * 10**9)
_BEGUN = datetime.fromtimestamp(1_800_000_000, UTC) - timedelta(seconds=1)


def live(state_dir: Path) -> Live:
    """One with a timeout of two seconds, which is cancelled after one."""
    context = EngineContext(state_dir=state_dir, executor_id="e", settings=MemorySettings(), policy=Policy())
    asked = request("one", timeout=2.0)
    return Live(Execution(id="one", token="t", executor_id="e", folder=state_dir, request=asked), StandIn(context))


@pytest.mark.parametrize("hours", [-5, 0, 5])
@pytest.mark.parametrize(
    ("stopped_by", "reason"), [(None, "exited"), ("stop", "cancelled"), ("deadline", "timed_out")], ids=str
)
def test_what_has_stopped_it_is_the_cause_whatever_its_clock_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    stopped_by: Literal["deadline", "stop"] | None,
    reason: str,
) -> None:
    monkeypatch.setattr(StandIn, "shares_clock", False)
    started = _BEGUN + timedelta(hours=hours)
    end = Exit(code=0, started_at=started, finished_at=started + timedelta(seconds=3), stopped_by=stopped_by)
    assert build_result(live(tmp_path), end, _CANCELLED, [], "").reason == reason


def test_of_one_machine_what_was_committed_first_is_the_cause(tmp_path: Path) -> None:
    end = Exit(code=0, started_at=_BEGUN, finished_at=_BEGUN + timedelta(seconds=3), stopped_by="deadline")
    assert build_result(live(tmp_path), end, _CANCELLED, [], "").reason == "cancelled"
