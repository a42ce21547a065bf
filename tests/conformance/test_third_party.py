"""The suite as an author of an engine uses it: the documentation's own example, and engines that do not conform."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_EXAMPLE = re.compile(r"^`([a-z_]+\.py)`.*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CONFTEST = """
import pytest
from tests.conformance.third_party import {subject}

@pytest.fixture(params=[{subject}()], ids=str)
def subject(request):
    return request.param
"""


def _pytest(folder: Path, *arguments: str, **variables: str) -> str:
    path = os.pathsep.join([str(folder), str(_ROOT / "src"), str(_ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "dms_executor.conformance.plugin", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    return done.stdout + done.stderr


def _write(folder: Path, subject: str) -> None:
    (folder / "conftest.py").write_text(_CONFTEST.format(subject=subject))
    (folder / "test_lines.py").write_text("from dms_executor.conformance.lines import *\n")


def test_the_documentations_example_runs(tmp_path: Path) -> None:
    files = dict(_EXAMPLE.findall((_ROOT / "docs" / "engines.md").read_text()))
    assert set(files) == {"mine.py", "conftest.py", "test_conformance.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = _pytest(tmp_path, "-k", "success or waiters or second_start or another_process_runs")
    assert re.search(r"conformance: engine mine: \d+ lines apply, \d+ do not \(need ", said), said
    assert " passed" in said, said
    assert "failed" not in said, said
    assert "skipped" not in said, said


def test_an_engine_with_less_powers_passes_with_less_lines(tmp_path: Path) -> None:
    _write(tmp_path, "ModestSubject")
    said = _pytest(tmp_path, "-k", "not_declared or pause")
    assert " passed" in said, said
    assert "failed" not in said, said
    assert "pause: " in said, said


def test_a_power_that_works_undeclared_fails_the_suite(tmp_path: Path) -> None:
    _write(tmp_path, "SecretiveSubject")
    said = _pytest(tmp_path, "-k", "not_declared")
    assert "test_a_power_that_is_not_declared_is_not_there[secretive-pause]" in said, said
    assert "2 failed, " in said, said


@pytest.mark.parametrize(("required", "expected"), [("", "1 skipped"), ("oci,ghost", "1 failed")])
def test_an_engine_that_is_missing_is_skipped_unless_required(tmp_path: Path, required: str, expected: str) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\nfrom dms_executor.conformance import ShellSubject\n"
        "_GHOST = ShellSubject(image='rootfs:/', engine_settings={'runtime': '/no/such/ghost'}, name='oci-ghost')\n"
        "@pytest.fixture(params=[_GHOST], ids=str)\n"
        "def subject(request):\n    return request.param\n"
    )
    (tmp_path / "test_lines.py").write_text(
        "from dms_executor.conformance.lines import test_times_of_a_result_are_aware_and_in_order\n"
    )
    said = _pytest(tmp_path, DMS_EXECUTOR_REQUIRE=required)
    assert expected in said, said
    assert "oci-ghost is not usable here" in said, said


def test_a_subject_that_is_no_parameter_is_explained(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef subject():\n    return None\n")
    (tmp_path / "test_lines.py").write_text("from dms_executor.conformance.lines import *\n")
    assert "give the subject as a fixture with params" in _pytest(tmp_path)
