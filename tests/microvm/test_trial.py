"""The trial of an accelerator tells one that runs a guest from one that does not."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from dms_executor.qemu.trial import trial

_QEMU = "qemu-system-x86_64"


@pytest.mark.skipif(
    shutil.which(_QEMU) is None or platform.machine() != "x86_64",
    reason=f"needs {_QEMU} (apt-get install qemu-system-x86)",
)
class TestReal:
    def test_emulation_runs_a_guest(self) -> None:
        assert trial(_QEMU, "tcg", "max", 60) == ""

    def test_no_such_accelerator(self) -> None:
        assert "invalid accelerator" in trial(_QEMU, "none-such", "max", 60)

    def test_no_such_processor(self) -> None:
        assert "none-such" in trial(_QEMU, "tcg", "none-such", 60)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "code 0"),
        ("exit 84", "code 84"),
        ("kill -ABRT $$", "SIGABRT"),
        ("echo 'failed to set MSR' >&2; echo more >&2; exit 1", "(failed to set MSR)"),
    ],
)
def test_an_end_without_the_word_is_none(tmp_path: Path, script: str, said: str) -> None:
    assert said in trial(_stand_in(tmp_path, script), "kvm", "host", 60)


def test_one_that_hangs_is_killed(tmp_path: Path) -> None:
    assert "did not end" in trial(_stand_in(tmp_path, "exec sleep 600"), "kvm", "host", 0.2)


def _stand_in(tmp_path: Path, script: str) -> str:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
