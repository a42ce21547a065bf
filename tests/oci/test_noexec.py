"""The package works where it is installed on a mount from which nothing may be executed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.oci import OciSpec
from dms_executor.supervisor import binary, spawning

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def noexec_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's programs on a noexec mount."""
    place = tmp_path / "noexec"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,size=4m", "tmpfs", str(place)], check=True)
    for name in ("dms-shim", "dms-init"):
        shutil.copy(binary._FOLDER / name, place / name)
    monkeypatch.setattr(binary, "_FOLDER", place)
    monkeypatch.setattr(spawning, "_FOUND", [])
    binary.shim_path.cache_clear()
    binary.init_path.cache_clear()
    yield place
    binary.shim_path.cache_clear()
    binary.init_path.cache_clear()
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_job_runs_from_a_noexec_mount(state_dir: Path, rootfs: Path, noexec_programs: Path) -> None:
    with pytest.raises(PermissionError):
        subprocess.run([noexec_programs / "dms-init"], check=False)
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["sh", "-c", "echo hi; exit 3"]).build()
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        result = await executor.run(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec))
    assert (result.exit_code, result.stdout) == (3, b"hi\n")
