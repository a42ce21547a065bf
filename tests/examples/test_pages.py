"""Every code block of README and docs is run as it stands, or says why not; programs are type-checked, too."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .blocks import DATA, EMPTY, LIMIT, ROOT, RUN, SHOWN, blocks, pages, prints, program_of, run_block


def _with_blocks(kinds: tuple[str, ...]) -> list[str]:
    return [page for page in pages() if any(block.kind in kinds for block in blocks(page))]


def test_pages_with_examples_are_found() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/recipes/grader.md", "docs/engines.md"} <= set(_with_blocks(RUN))
    assert [block.kind for page in pages() for block in blocks(page) if block.kind not in RUN + DATA + SHOWN] == []


def test_what_is_printed_is_compared() -> None:
    assert prints("a\n… b\n…\nz\n", "a\nany b\n1\n2\nz\n")
    assert prints("a\n", "a")
    assert not prints("a\n", "b\n")
    assert not prints("a\n", "a\nb\n")
    assert not prints("exit code 1.\n", "exit code 12\n")


@pytest.fixture
def day(tmp_path: Path, rootfs: Path) -> tuple[Path, dict[str, str]]:
    """A folder with a root of busybox, and `dms-executor` and `python` in PATH with a state folder of its own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, module in {"dms-executor": "-m dms_executor.cli", "pytest": "-m pytest", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (tools / name).chmod(0o755)
    folder = tmp_path / "day"
    folder.mkdir()
    shutil.copytree(rootfs, folder / "root", symlinks=True)
    (folder / "root").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return folder, environment | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "DMS_EXECUTOR_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONASYNCIODEBUG": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


@pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("crun") or shutil.which("runc")), reason="needs root, and crun or runc"
)
@pytest.mark.parametrize("page", _with_blocks(RUN))
def test_the_blocks_of_a_page_run(page: str, day: tuple[Path, dict[str, str]]) -> None:
    folder, environment = day
    if EMPTY in (ROOT / page).read_text():
        shutil.rmtree(folder / "root")
    try:
        for number, block in enumerate(blocks(page)):
            if block.file:
                (folder / block.file).write_text(block.text)
            elif block.kind in RUN and not block.not_run:
                run_block(block, number, folder, environment)
    finally:
        cleanup = [sys.executable, "-m", "dms_executor.cli", "cleanup", "--running"]
        for state in {environment["DMS_EXECUTOR_STATE_DIR"], *map(str, folder.glob("*state"))}:
            subprocess.run([*cleanup, "--state-dir", state], env=environment, capture_output=True, timeout=LIMIT)


@pytest.mark.parametrize("page", _with_blocks((*RUN, *DATA)))
def test_a_block_that_is_not_run_says_why_and_data_is_well_formed(page: str) -> None:
    read: dict[str, Any] = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads, "ini": str}
    for block in blocks(page):
        assert not block.not_run or len(block.not_run.split()) > 2, block
        if block.kind in DATA and not block.not_run:
            assert read[block.kind](block.text)


def test_the_programs_are_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for page in _with_blocks(("python",)):
        for number, block in enumerate(blocks(page)):
            # A test of pytest's is written as its readers write theirs.
            if block.kind == "python" and not block.not_run and not block.file.startswith(("conftest", "test_")):
                name = re.sub(r"\W", "_", page)
                (tmp_path / f"{name}_{number}.py").write_text(program_of(block))
    found = sorted(str(program) for program in tmp_path.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--strict", *found]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout
