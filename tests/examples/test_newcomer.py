"""A newcomer's way: README line by line, by an ordinary user with the wheel in an environment of its own.

In the host, where `.ci/on-host full` has put the wheel: `scripts/host --systemd --user guest`. pip finds what the wheel
needs in a folder, as nothing there reaches an index; what apt would install is there already, which is looked at.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .blocks import RUN, Block, blocks
from .test_pages import run_block

PACKAGE = Path("/out/wheels")  # brought into the host
DEPENDENCIES = Path("/opt/wheels")  # tests/host/build leaves them there
LIMIT = 600.0

pytestmark = pytest.mark.skipif(
    not list(PACKAGE.glob("dms_executor-*.whl")), reason="needs the wheel, in a host of our own: .ci/on-host full"
)


@pytest.fixture
def newcomer(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An empty folder and a plain environment."""
    folder = tmp_path / "first-day"
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("HOME", "USER", "XDG_RUNTIME_DIR", "LANG", "DBUS_SESSION_BUS_ADDRESS")}
    return (
        folder,
        kept
        | {
            # As it is once the environment is activated.
            "PATH": f"{folder}/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"{PACKAGE} {DEPENDENCIES}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "NO_COLOR": "1",
        },
    )


def install(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """The lines that set a machine up, but for those that are root's, whose packages are there."""
    lines = block.text.splitlines()
    roots = [line.partition("#")[0].split()[2:] for line in lines if line.startswith("apt-get install ")]
    assert roots
    for package in (package for line in roots for package in line):
        subprocess.run(["dpkg-query", "--status", package], check=True, capture_output=True)
    own = "\n".join(line for line in lines if not line.startswith("apt-get "))
    subprocess.run(["bash", "-euc", own], check=True, cwd=folder, env=environment, timeout=LIMIT)


def test_readme_line_by_line(newcomer: tuple[Path, dict[str, str]]) -> None:
    assert os.geteuid() != 0, "a newcomer is an ordinary user here"
    folder, environment = newcomer
    python = str(folder / "venv/bin/python")
    ran = []
    for number, block in enumerate(blocks("README.md")):
        if block.not_run and "pip install dms-executor\n" in block.text:
            install(block, folder, environment)
            where = [python, "-c", "import dms_executor; print(dms_executor.__file__)"]
            found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder, env=environment)
            assert Path(found.stdout).is_relative_to(folder / "venv"), "the wheel's, not the checkout's"
        elif block.kind in RUN and not block.not_run:
            run_block(block, number, folder, environment, python)
            ran.append(block.kind)
    assert ran.count("sh") >= 2
    assert ran.count("python") >= 1
    tool = str(folder / "venv/bin/dms-executor")
    listed = subprocess.run([tool, "ps", "-a"], check=True, capture_output=True, text=True, cwd=folder, env=environment)
    assert "long" in listed.stdout
    subprocess.run([tool, "cleanup", "--running"], check=True, cwd=folder, env=environment, timeout=LIMIT)
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "dms-executor"], check=True, env=environment)
    assert not Path(tool).exists()
