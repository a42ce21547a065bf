"""`--settings` and its variable: what of the executor and its engines one call is to go by."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from .conftest import Cli


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings by which output beyond 1 KiB is not kept."""
    file = tmp_path / "settings.yaml"
    file.write_text("log_cap: 1KiB\nengines:\n  oci: {runtime: /nonexistent/crun}\n")
    return file


def test_they_reach_the_executor(cli: Cli, settings: Path) -> None:
    assert cli.memory(*["echo " + "x" * 100] * 100).out.count(b"x") == 10_000
    finished = cli("--settings", str(settings), "run", "--id", "a", "--engine", "memory", *["echo " + "x" * 100] * 100)
    assert finished.code == 0
    kept = cli("logs", "a")
    assert kept.out.count(b"x") < 2_000


@pytest.mark.skipif(shutil.which("crun") is None, reason="needs crun")
def test_they_reach_an_engine_before_or_behind_the_command_and_by_the_environment(cli: Cli, settings: Path) -> None:
    for arguments, env in (
        (("--settings", str(settings), "engines"), {}),
        (("engines", "--settings", str(settings)), {}),
        (("engines",), {"DMS_EXECUTOR_SETTINGS": str(settings)}),
    ):
        found = [json.loads(line) for line in cli("--json", *arguments, env=env).out.splitlines()]
        (oci,) = [each for each in found if each["engine"] == "oci"]
        assert not oci["usable"]
        assert "/nonexistent/crun" in oci["problem"], arguments


def test_the_option_counts_more_than_the_environment(cli: Cli, settings: Path) -> None:
    finished = cli(
        *("--settings", str(settings), "run", "--engine", "memory", "echo hi"),
        env={"DMS_EXECUTOR_SETTINGS": "/nonexistent/settings"},
    )
    assert finished == (0, b"hi\n", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grece: 5", "there is no setting 'grece'; there are log_cap,"),
        ("grace: soon", "Expected `float`, got `str` - at `$.grace`"),
        ("- 5", "holds no settings, but list"),
        ("{", "is neither JSON nor YAML"),
    ],
)
def test_what_is_wrong_with_them_is_said(cli: Cli, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    finished = cli("--settings", str(file), "run", "--engine", "memory", "echo hi")
    assert (finished.code, finished.out) == (125, b"")
    assert said in finished.err
    assert cli("--settings", str(file), "ps").code == 2
    assert cli("ps", env={"DMS_EXECUTOR_SETTINGS": str(file)}).code == 2


def test_a_file_that_is_not_there(cli: Cli) -> None:
    finished = cli("--settings", "/nonexistent/settings", "ps")
    assert finished.code == 2
    assert os.strerror(2) in finished.err
