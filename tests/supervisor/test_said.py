"""What an init reported is read where a job can write to it as well: whatever that is, it ends nothing but itself."""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime

import pytest

from dms_executor.supervisor.said import Report

SCRIPT, EXITED = 100, 98


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IB3x", len(payload), kind) + payload


@pytest.mark.parametrize("kind", [SCRIPT, EXITED])
@pytest.mark.parametrize("status", [0x137F, 0xFFFF])
def test_a_status_that_no_process_ends_with_is_left_out(kind: int, status: int) -> None:
    report = Report()
    report.take(frame(kind, struct.pack("<I", status)))
    assert not report.is_over
    assert not report.script_failed
    report.take(frame(EXITED, struct.pack("<I", 3 << 8)))
    assert report.to_exit(killed=False, now=datetime.now(UTC)).code == 3


def test_whatever_is_written_there_a_report_can_be_read() -> None:
    dice = random.Random(7)
    for _ in range(2000):
        report = Report()
        report.take(frame(dice.randrange(94, 116), dice.randbytes(dice.randrange(56))))
        report.to_exit(killed=False, now=datetime.now(UTC))
