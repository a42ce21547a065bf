"""Where the tests find runsc (gVisor), which no distribution packages: on PATH, or where `scripts/runsc` put it."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

__all__ = ["RUNTIMES", "installed", "needed", "program"]

RUNTIMES = ("crun", "runc", "runsc")
_SCRIPT = Path(__file__).parents[1] / "scripts" / "runsc"


@functools.cache
def installed() -> tuple[str, str]:
    """Its path, or an empty one and the reason."""
    found = subprocess.run([_SCRIPT, "--where"], capture_output=True, text=True, check=False)
    return found.stdout.strip(), found.stderr.strip()


def program(runtime: str) -> str:
    """What the setting `runtime` is given."""
    return (installed()[0] or runtime) if runtime == "runsc" else runtime


def _required() -> bool:
    return "runsc" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",")


# Where runsc must be there, its tests fail instead of being skipped.
needed = pytest.mark.skipif(not installed()[0] and not _required(), reason=installed()[1])
