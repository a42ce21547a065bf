"""The root file system that the benchmarks run in."""

from __future__ import annotations

import subprocess
from pathlib import Path


def busybox_root(scratch: Path) -> Path:
    """A small root tree of busybox, made once per scratch folder."""
    root = scratch / "root"
    if not root.exists():
        script = Path(__file__).parent.parent / "scripts" / "rootfs"
        subprocess.run([str(script), str(root)], check=True, stdout=subprocess.DEVNULL)
    return root
