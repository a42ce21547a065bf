"""Which runtime the caller's jobs run on: the first that is here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def oci_runtime() -> str:
    """crun or runc, if this machine can run containers as root."""
    found = next((name for name in ("crun", "runc") if shutil.which(name)), None)
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root, and crun or runc")
    return found


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root tree of busybox."""
    root = tmp_path_factory.mktemp("rootfs") / "root"
    script = Path(__file__).parents[2] / "scripts" / "rootfs"
    subprocess.run([str(script), str(root)], check=True, stdout=subprocess.DEVNULL)
    return root
