"""The words of `scripts/host`, and what is made of its reports; the host itself is tried by whatever runs in it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from . import machines
from .boot import command_of, parsed
from .requirements import pins, wanted

HERE = Path(__file__).parent


def test_options_before_the_command_are_the_scripts() -> None:
    mine = parsed(["--cache", "/c", "--user", "guest", "--timeout", "5", "pytest", "-k", "x", "--timeout", "3"])
    assert (mine.user, mine.timeout, mine.command) == ("guest", 5.0, ["pytest", "-k", "x", "--timeout", "3"])


def test_building_needs_no_command_and_all_else_does() -> None:
    assert parsed(["--cache", "/c", "--build"]).command == []
    with pytest.raises(SystemExit):
        parsed(["--cache", "/c"])


def test_pytest_writes_a_report_and_other_commands_stay_as_they_are() -> None:
    assert command_of(["sh", "-c", "true"], "tcg") == ["sh", "-c", "true"]
    emulated = command_of(["pytest", "tests/oci"], "tcg")
    assert emulated[:5] == ["python", "-m", "pytest", "-p", "tests.host.slow"]
    assert emulated[-1] == "tests/oci"
    assert "tests.host.slow" not in command_of(["pytest"], "kvm")


def test_no_kernel_writes_to_the_root_image_or_the_checkout(tmp_path: Path) -> None:
    cache, checkout, out, scratch = (tmp_path / name for name in ("cache", "checkout.tar", "out", "scratch"))
    program = machines.uml(cache, checkout, out, scratch)
    assert f"ubd0={scratch}/root.cow,{cache}/root.img" in program
    assert f"ubd1r={checkout}" in program
    drives = [word for word in machines.qemu(cache, "kvm", checkout, out) if word.startswith("file=")]
    assert ["snapshot=on" in drive or "readonly=on" in drive for drive in drives] == [True, True]


def test_several_processes_run_each_test_once(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("".join(f"def test_{n}(): assert {n} != 3\n" for n in range(7)))
    words = [sys.executable, "-m", "tests.host.shards", "3", f"--junitxml={tmp_path}/junit.xml", "-q", str(tmp_path)]
    done = subprocess.run(words, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("passed") == 3
    reports = sorted(path.name for path in tmp_path.glob("*.xml"))
    assert reports == ["junit-1.xml", "junit-2.xml", "junit.xml"]
    ran = "".join(path.read_text() for path in tmp_path.glob("*.xml"))
    assert [ran.count(f'name="test_{n}"') for n in range(7)] == [1] * 7


def test_a_skip_fails_unless_its_reason_is_announced(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('no crun here')\n"
    )
    junit = f"--junitxml={tmp_path}/junit.xml"
    subprocess.run([sys.executable, "-m", "pytest", "-q", junit, str(tmp_path)], capture_output=True, check=True)

    def told(*patterns: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(HERE / "skips.py"), str(tmp_path), *patterns]
        return subprocess.run(words, capture_output=True, text=True)

    assert told().returncode == 1
    assert "1 x no crun here" in told().stdout
    assert told("no cr.n").returncode == 0
    (tmp_path / "junit.xml").unlink()
    assert told("no cr.n").returncode == 1, "no report is no success"


def test_what_may_go_into_the_host_is_what_its_packages_need() -> None:
    """Else it would be built anew for a pin that it has nothing of, or not for one that it has."""
    needed: set[str] = set()
    to_do = wanted(HERE.parents[1] / "pyproject.toml")
    while to_do:
        requirement = Requirement(to_do.pop())
        name = requirement.name.lower().replace("_", "-")
        if name not in needed and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            needed.add(name)
            to_do += distribution(requirement.name).requires or []
    pinned = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins(HERE.parents[1] / "constraints.txt")}
    assert pinned == needed
