"""The rate of the time stamp counter, which a busy machine must not bend: a guest that is told a wrong one may hang."""

from __future__ import annotations

import itertools
import platform
import time

import pytest

from dms_executor.microvm import clock


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 only")
def test_what_comes_between_two_readings_does_not_bend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = clock.tsc_khz.__wrapped__()
    calls = itertools.count(1)

    class Interrupted:
        """Every fourth reading of the time is late, as if another process had run before it."""

        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic_ns() -> int:
            if next(calls) % 4 == 0:
                time.sleep(0.005)
            return time.monotonic_ns()

    monkeypatch.setattr(clock, "time", Interrupted)
    bent = [clock.tsc_khz.__wrapped__() for _ in range(4)]
    assert straight is not None
    for rate in bent:
        assert rate is not None
        assert abs(rate - straight) < straight / 100
