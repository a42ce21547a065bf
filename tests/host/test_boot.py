"""The words of `scripts/host`; the host itself is tried by whatever runs in it."""

from __future__ import annotations

import pytest

from .boot import command_of, parsed


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
