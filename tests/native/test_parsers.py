"""The C parsers under hostile input, and the build itself."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
compiles = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None and "DMS_EXECUTOR_CC" not in os.environ,
    reason="no C compiler here: pip install ziglang",
)


@pytest.fixture(scope="module")
def native() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dms_native_build", ROOT / "native" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the sanitizer build needs gcc")
@pytest.mark.parametrize("seed", range(3))
def test_hostile_input_finds_no_fault(native: ModuleType, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    program = native.build(folder, fuzz=True)[0]
    done = subprocess.run([program, str(seed), "200000"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[2]) > 300, "hardly any CONFIG got past the first check"
    assert int(done.stdout.split()[4]) > 300, "hardly anything that a guest is told did"


@compiles
def test_an_unchanged_source_is_not_compiled_again(
    native: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "PROGRAMS", {"dms-vm-exec": native.PROGRAMS["dms-vm-exec"]})
    outputs = native.build(tmp_path)
    before = [output.stat().st_mtime_ns for output in outputs]
    native.build(tmp_path)
    assert [output.stat().st_mtime_ns for output in outputs] == before
    outputs[0].unlink()
    native.build(tmp_path)
    assert outputs[0].exists()


def test_without_a_compiler_both_ways_are_named(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("DMS_EXECUTOR_CC", raising=False)
    with pytest.raises(native.BuildError, match=r"pip install ziglang.*DMS_EXECUTOR_CC"):
        native.compiler()


@compiles
def test_the_programs_are_static_and_small(native: ModuleType) -> None:
    for output in native.build(ROOT / "src/dms_executor/bin"):
        assert b"/ld-musl" not in output.read_bytes()
        assert output.stat().st_size < 200_000


@compiles
@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["run", "more"], ["keeper", "1"], ["tether"]])
def test_a_wrong_call_says_how(native: ModuleType, tmp_path: Path, arguments: list[str]) -> None:
    shim = native.build(tmp_path)[0]
    done = subprocess.run([shim, *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: dms-shim run")
