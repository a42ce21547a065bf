"""The disk that a guest writes to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dms_executor.errors import ResourcesUnavailable
from dms_executor.microvm.scratch import SMALLEST, make_scratch


@pytest.mark.parametrize(("size", "real"), [(1, SMALLEST), ((1 << 30) - 1, 1 << 30)])
async def test_it_has_its_size_and_takes_no_room(tmp_path: Path, size: int, real: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"what stood there")
    await make_scratch(path, size)
    status = path.stat()
    assert status.st_size == real
    assert status.st_blocks * 512 < 1 << 20
    assert status.st_mode & 0o777 == 0o600
    checked = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_one_that_the_host_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ResourcesUnavailable, match="smaller"):
        await make_scratch(tmp_path / "disk", 2**62)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ResourcesUnavailable, match="No such file"):
        await make_scratch(tmp_path / "absent/disk", 1 << 20)
