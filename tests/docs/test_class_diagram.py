"""What the docs draw is drawn from the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_class_diagram_is_the_sources() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "class-diagram"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
