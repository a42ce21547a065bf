"""A state folder on an overlay, as in a container without a volume: said before anything is made, and mended by one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable
from dms_executor.policy import Policy

from .conftest import opened

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """The root of a container, as it were."""
    for name in ("lower", "upper", "work", "root"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "root")], check=True)
    yield tmp_path / "root"
    subprocess.run(["umount", str(tmp_path / "root")], check=True)


async def test_it_is_told_what_to_do(overlay: Path, busybox: Path) -> None:
    state = overlay / "var" / "state"  # not made yet
    async with opened(state, busybox, Policy.trusted()) as bench:
        probe = await bench.engine.probe()
        assert not probe.usable
        assert f"the state folder {state} lies on an overlay" in probe.problem
        assert "a volume" in probe.mend
        with pytest.raises(EngineUnavailable, match="lies on an overlay"):
            await bench.engine.validate(bench.execution("true").request)
    assert not list((overlay / "var" / "state" / "executions").glob("*/bundle"))


async def test_a_disk_within_is_no_overlay(overlay: Path, busybox: Path) -> None:
    state = overlay / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(state)], check=True)
    try:
        async with opened(state, busybox, Policy.trusted()) as bench:
            ran = await bench.run("sh", "-c", "echo hi >/file; cat /file")
        assert (ran.exit.code, ran.stdout) == (0, "hi\n")
    finally:
        subprocess.run(["umount", str(state)], check=True)
