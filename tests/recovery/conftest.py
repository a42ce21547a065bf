"""Which runtime the caller's jobs run on: the first that is here."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def oci_runtime() -> str:
    """crun or runc, if this machine can run containers as root."""
    found = next((name for name in ("crun", "runc") if shutil.which(name)), None)
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root, and crun or runc")
    return found
