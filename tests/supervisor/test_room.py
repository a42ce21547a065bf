"""The exit record's place on the disk, on file systems that cannot keep one, or have none left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.shim import create

from ..disks import mounted
from .test_shim_runs import run

Job = Callable[..., ShimSpec]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


async def test_a_file_system_that_reserves_nothing_will_do(tmp_path: Path, job: Job) -> None:
    with mounted(tmp_path, "-t", "ramfs", "-o", "mode=0700") as folder:
        tried = subprocess.run(["fallocate", "-l", "4096", folder / "tried"], capture_output=True, check=False)
        assert b"not supported" in tried.stderr
        ended = await run(folder, job("sh", "-c", "exit 3"))
    assert (ended.code, ended.signal, ended.lost) == (3, None, None)


async def test_a_full_disk_is_told_before_anything_runs(tmp_path: Path, job: Job) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=128k,mode=0700") as folder:
        system = os.statvfs(folder)
        (folder / "filler").write_bytes(bytes(system.f_bavail * system.f_frsize))
        with pytest.raises(StartFailed, match="cannot reserve space for the exit record: No space left on device"):
            await create(folder, job("touch", str(tmp_path / "ran")))
        assert os.listdir(folder) == ["filler"]
    assert not (tmp_path / "ran").exists()
