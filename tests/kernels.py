"""Where the tests find a kernel for microVMs: an installed one, or the one that `scripts/kernel` has fetched."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

__all__ = ["installed", "needed"]

_SCRIPT = Path(__file__).parents[1] / "scripts" / "kernel"


@functools.cache
def installed() -> tuple[str, str]:
    """Its path, or an empty one and the reason."""
    found = subprocess.run([_SCRIPT, "--where"], capture_output=True, text=True, check=False)
    return found.stdout.strip(), found.stderr.strip()


def _required() -> bool:
    return "kernel" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",")


# Where a kernel must be there, its tests fail instead of being skipped.
needed = pytest.mark.skipif(not installed()[0] and not _required(), reason=installed()[1])
