"""The exit record's place on the disk, on file systems that cannot keep one, or have none left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import ShimSpec
from dms_executor.supervisor.shim import create

from .test_shim_runs import run

Job = Callable[..., ShimSpec]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, of the words that `request.param` has for mount(8)."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", *request.param, "none", place], check=True)
    folder = place / "execution"
    folder.mkdir(mode=0o700)
    yield folder
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("mounted", [["-t", "ramfs"]], ids=["ramfs"], indirect=True)
async def test_a_file_system_that_reserves_nothing_will_do(mounted: Path, job: Job) -> None:
    tried = subprocess.run(["fallocate", "-l", "4096", mounted / "tried"], capture_output=True, check=False)
    assert b"not supported" in tried.stderr
    ended = await run(mounted, job("sh", "-c", "exit 3"))
    assert (ended.code, ended.signal, ended.lost) == (3, None, None)


@pytest.mark.parametrize("mounted", [["-t", "tmpfs", "-o", "size=128k"]], ids=["tmpfs"], indirect=True)
async def test_a_full_disk_is_told_before_anything_runs(mounted: Path, job: Job, tmp_path: Path) -> None:
    system = os.statvfs(mounted)
    (mounted / "filler").write_bytes(bytes(system.f_bavail * system.f_frsize))
    with pytest.raises(StartFailed, match="cannot reserve space for the exit record: No space left on device"):
        await create(mounted, job("touch", str(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()
    assert os.listdir(mounted) == ["filler"]
