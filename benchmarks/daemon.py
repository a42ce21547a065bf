"""A Docker daemon for a benchmark: an own one with an own data folder, so that nothing of the machine's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["dockerd", "missing"]

_UP = 60.0
_IMAGE = "dms-bench"


def missing() -> str:
    """Why none can be had; empty where it can."""
    lacking = [name for name in ("dockerd", "docker") if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} is not installed"
    return "" if os.geteuid() == 0 else "dockerd needs root"


@contextlib.contextmanager
def dockerd(root: Path) -> Iterator[tuple[list[str], str]]:
    """The words that call its client, and the name of an image made from the tree `root`."""
    # Not in the benchmark's scratch folder: a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="dms-dockerd-") as folder:
        client = [shutil.which("docker") or "docker", "--host", f"unix://{folder}/s"]
        argv = [
            "dockerd",
            "--host",
            f"unix://{folder}/s",
            "--data-root",
            f"{folder}/data",
            "--exec-root",
            f"{folder}/x",
        ]
        argv += ["--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false"]
        with open(f"{folder}/log", "wb") as log:
            daemon = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            _await_up(client, daemon, Path(folder) / "log")
            packed = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
            subprocess.run([*client, "import", "-", _IMAGE], stdin=packed.stdout, stdout=subprocess.DEVNULL, check=True)
            packed.wait()
            yield client, _IMAGE
        finally:
            daemon.terminate()
            daemon.wait()


def _await_up(client: list[str], daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _UP
    while subprocess.run([*client, "version"], capture_output=True).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"dockerd does not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
