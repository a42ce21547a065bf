"""What goes into the host beside the checkout where this machine has it: runsc, Firecracker and jailer, kernel, peer.

Firecracker: DMS_EXECUTOR_FIRECRACKER, else the one on PATH, linked statically for the jailer's sake, which lies beside
it. Guests need a kernel with modules, which `scripts/kernel` finds; those of QEMU, too, where it is among
DMS_EXECUTOR_HOST_PACKAGES. DMS_EXECUTOR_MSB: what microsandbox's wheel bundles, for a benchmark.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_IN_HOST = "/checkout"


def brought() -> dict[str, Path]:
    """By its name in the host's checkout."""
    found = {"runsc": _said_by("runsc")}
    program = os.environ.get("DMS_EXECUTOR_FIRECRACKER") or shutil.which("firecracker")
    if program:
        firecracker = Path(program).resolve()
        found |= {"tools/firecracker": firecracker, "tools/jailer": firecracker.with_name("jailer")}
    if peer := os.environ.get("DMS_EXECUTOR_MSB"):
        found["tools/msb"] = Path(peer)
    has_qemu = "qemu" in os.environ.get("DMS_EXECUTOR_HOST_PACKAGES", "")
    if (program or has_qemu) and (image := _said_by("kernel")):
        release = image.name.removeprefix("vmlinuz-")
        modules = image.parent.parent / "lib/modules" / release
        found |= {f"tools/boot/{image.name}": image, f"tools/lib/modules/{release}": modules}
    return {name: path for name, path in found.items() if path is not None and path.exists()}


def variables(names: dict[str, Path], *, kvm: bool) -> dict[str, str]:
    """What tells the tests of it. `kvm`: whether the host's KVM boots Linux."""
    chosen = {
        "DMS_EXECUTOR_RUNSC": "runsc",
        "DMS_EXECUTOR_FIRECRACKER": "tools/firecracker",
        "DMS_EXECUTOR_MSB": "tools/msb",
    }
    found = {variable: f"{_IN_HOST}/{name}" for variable, name in chosen.items() if name in names}
    if kernel := next((name for name in names if name.startswith("tools/boot/")), None):
        found["DMS_EXECUTOR_KERNEL_IMAGE"] = f"{_IN_HOST}/{kernel}"
    return found | ({"DMS_EXECUTOR_KVM": "linux"} if kvm else {})


def _said_by(script: str) -> Path | None:
    """Where a script of ours finds it."""
    done = subprocess.run([ROOT / "scripts" / script, "--where"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.stdout.strip() else None
