"""README line by line with the package as its users get it; no more than Python's own library.

usage: python3 -m tests.examples.newcomer     as root, on a machine that has nothing yet: scripts/newcomer
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .blocks import RUN, Block, blocks, run_block

__all__ = ["LIMIT", "environment_in", "walk"]

LIMIT = 900.0
_KEPT = ("HOME", "USER", "XDG_RUNTIME_DIR", "LANG", "DBUS_SESSION_BUS_ADDRESS")


def environment_in(folder: Path, **more: str) -> dict[str, str]:
    """A plain one, as it is once the virtual environment in the folder is activated."""
    path = f"{folder}/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1", **more}


def walk(folder: Path, environment: Mapping[str, str]) -> None:
    """Every block that is to be run, the installation among them, then the removal."""
    env, python = dict(environment), str(folder / "venv/bin/python")
    ran = []
    for number, block in enumerate(blocks("README.md")):
        if block.not_run and "pip install dms-executor\n" in block.text:
            _install(block, folder, env)
            where = [python, "-c", "import dms_executor; print(dms_executor.__file__)"]
            found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder, env=env)
            assert Path(found.stdout).is_relative_to(folder / "venv"), "the wheel's, not the checkout's"
        elif block.kind in RUN and not block.not_run:
            run_block(block, number, folder, env, python)
            ran.append(block.kind)
    assert ran.count("sh") >= 2
    assert ran.count("python") >= 1
    tool = str(folder / "venv/bin/dms-executor")
    listed = subprocess.run([tool, "ps", "-a"], check=True, capture_output=True, text=True, cwd=folder, env=env)
    assert "long" in listed.stdout
    subprocess.run([tool, "cleanup", "--running"], check=True, cwd=folder, env=env, timeout=LIMIT)
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "dms-executor"], check=True, env=env)
    assert not Path(tool).exists()


def _install(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """The lines that set a machine up; of those that are root's an ordinary user only looks whether they were run."""
    lines = block.text.splitlines()
    roots = [line.partition("#")[0].split() for line in lines if line.startswith("apt-get install ")]
    assert roots
    for words in roots:
        if os.geteuid() == 0:
            subprocess.run([words[0], "-y", "-qq", *words[1:]], check=True, env=environment, timeout=LIMIT)
        else:
            for package in words[2:]:
                subprocess.run(["dpkg-query", "--status", package], check=True, capture_output=True)
    own = "\n".join(line for line in lines if not line.startswith("apt-get "))
    subprocess.run(["bash", "-euc", own], check=True, cwd=folder, env=environment, timeout=LIMIT)


def main() -> None:
    """All of it in a new folder; pip's own variables count."""
    pips = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "DEBIAN_"))}
    with tempfile.TemporaryDirectory(prefix="first-day-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        walk(folder, environment_in(folder, **pips))
    print(f"README, line by line: as it says (Python {sys.version.split()[0]})")


if __name__ == "__main__":
    main()
