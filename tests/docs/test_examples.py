"""The examples of README and docs are run as they stand, and type-checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- run by tests/docs/test_examples.py -->\n```python\n(.*?)```", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Every marked block: file and text."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [(page.name, block) for page in pages for block in BLOCK.findall(page.read_text())]


def test_there_are_examples() -> None:
    assert "README.md" in dict(examples())


@pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("crun") or shutil.which("runc")), reason="needs root, and crun or runc"
)
@pytest.mark.parametrize(("page", "text"), examples())
def test_an_example_runs(page: str, text: str, tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "root").symlink_to(rootfs)
    program = tmp_path / "example.py"
    program.write_text(text)
    environment = {**os.environ, "PYTHONASYNCIODEBUG": ""}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    if page == "README.md":
        assert done.stdout == "3 b'hi\\n'\nb'hi\\n'\n"


@pytest.mark.parametrize(("page", "text"), examples())
def test_an_example_is_typed(page: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "example.py"
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, f"{page}: {done.stdout}"


def test_the_class_diagram_is_the_sources() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "class-diagram"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
