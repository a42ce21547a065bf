"""`dms-init -g`: what a job is handed with its go stands whole, however often that go comes."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dms_executor.supervisor import binary

_LIMIT = 30.0
_SECRETS = b"".join(b"SECRET_%d=%s\0" % (number, b"x" * 1000) for number in range(500))
_RECORD = struct.pack("<II", len(b"environment"), len(_SECRETS)) + b"environment" + _SECRETS


def _receiver(room: Path) -> subprocess.Popen[bytes]:
    """Without the end of what comes: nobody is let go."""
    return subprocess.Popen([binary.init_path(), "-g", room], stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def _until(is_there: Callable[[], bool]) -> None:
    end = time.monotonic() + _LIMIT
    while not is_there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_second_go_takes_nothing_away_from_the_first(tmp_path: Path) -> None:
    with _receiver(tmp_path) as first, _receiver(tmp_path) as second:
        assert first.stdin is not None
        assert second.stdin is not None
        first.stdin.write(_RECORD)
        whole = tmp_path / "environment"
        _until(whole.exists)
        second.stdin.write(_RECORD[: len(_RECORD) // 2])
        own = tmp_path / f".{second.pid}"
        _until(lambda: own.exists() and own.stat().st_size >= 1 << 16)
        assert whole.read_bytes() == _SECRETS
        second.stdin.close()
        assert second.wait(_LIMIT) == 1
        assert b"did not arrive" in (second.stderr.read() if second.stderr is not None else b"")
        assert list(tmp_path.iterdir()) == [whole]
        assert whole.stat().st_mode & 0o777 == 0o600
        first.stdin.close()
        assert first.wait(_LIMIT) == 1
    assert whole.read_bytes() == _SECRETS
