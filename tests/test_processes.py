"""A process is told from a later one with the same number."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dms_executor.processes import boot_id, open_process, start_time


def test_this_one_is_found_and_another_of_its_number_is_not() -> None:
    started = start_time(os.getpid())
    assert started is not None
    fd = open_process(os.getpid(), started)
    assert fd is not None
    os.close(fd)
    assert open_process(os.getpid(), started + 1) is None


def test_one_that_ended_is_none() -> None:
    child = subprocess.Popen(["sleep", "100"])
    started = start_time(child.pid)
    child.kill()
    child.wait()
    assert started is not None
    assert start_time(child.pid) is None
    assert open_process(child.pid, started) is None


def test_a_name_with_parentheses_and_spaces(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "100"])
    try:
        own = start_time(os.getpid())
        found = start_time(child.pid)
        assert own is not None
        assert found is not None
        assert found >= own
    finally:
        child.kill()
        child.wait()


def test_the_boot_has_one_name() -> None:
    assert boot_id() == boot_id() != ""
