"""What the tests of microVMs by QEMU need of this machine, and the settings that they run with."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from typing import Any

import pytest

from tests import kernels

__all__ = ["missing", "needed", "settings"]

_PROGRAM = "qemu-system-x86_64"


def missing() -> str:
    """Why there are no microVMs here; empty where there are."""
    if platform.machine() != "x86_64":
        return "the engine qemu is for x86_64 so far"
    if os.geteuid() != 0:
        return "the engine qemu takes root so far"
    if shutil.which(_PROGRAM) is None:
        return f"no {_PROGRAM}: apt-get install qemu-system-x86"
    image, why = kernels.installed()
    return "" if image else why


def settings() -> dict[str, Any]:
    """Of the engine."""
    return {"kernel_image": kernels.installed()[0]}


@functools.cache
def _required() -> bool:
    return "qemu" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",")


# Where microVMs must be there, their tests fail instead of being skipped.
needed = pytest.mark.skipif(bool(missing()) and not _required(), reason=missing())
