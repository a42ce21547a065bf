"""What the tests of microVMs by Firecracker need of this machine, and the settings that they run with."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import kernels
from tests.host.machines import tsc_khz

__all__ = ["missing", "needed", "settings"]

_PROGRAM = os.environ.get("DMS_EXECUTOR_FIRECRACKER") or shutil.which("firecracker")


def missing() -> str:
    """Why there are no microVMs by Firecracker here; empty where there are."""
    if platform.machine() != "x86_64":
        return "the engine firecracker is for x86_64 so far"
    if os.geteuid() != 0:
        return "the engine firecracker takes root so far"
    if _PROGRAM is None:
        return "no firecracker here: put one on PATH, or name it by DMS_EXECUTOR_FIRECRACKER"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no KVM for this user"
    if os.environ.get("DMS_EXECUTOR_KVM") != "linux":
        return "DMS_EXECUTOR_KVM says of no KVM here that Linux boots in it"
    image, why = kernels.installed()
    return "" if image else why


def settings() -> dict[str, Any]:
    """Of the engine. `DMS_EXECUTOR_JAILED=no`: without the jailer."""
    return {
        "program": _PROGRAM,
        "jailer": str(Path(_PROGRAM or "").with_name("jailer")),
        "jailed": os.environ.get("DMS_EXECUTOR_JAILED") != "no",
        "kernel_image": kernels.installed()[0],
        "kernel_args": _clock(),
    }


@functools.cache
def _clock() -> str:
    # In a host that is itself emulated a guest's calibration of its clock may hang.
    return f"tsc_early_khz={tsc_khz()}" if os.environ.get("DMS_EXECUTOR_SLOW") else ""


@functools.cache
def _required() -> bool:
    return "firecracker" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",")


# Where they must be there, their tests fail instead of being skipped.
needed = pytest.mark.skipif(bool(missing()) and not _required(), reason=missing())
