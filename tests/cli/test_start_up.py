"""What starts quickly loads little; help teaches by examples."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from dms_executor.cli.commands import group

from .conftest import Cli

_LOADED = """
import sys
from dms_executor.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def _loaded(cli: Cli, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", _LOADED, *arguments]
    return set(subprocess.run(command, env=cli.environment(), capture_output=True, text=True).stderr.split())


def test_help_loads_nothing_but_click(cli: Cli) -> None:
    loaded = _loaded(cli, "--help")
    assert "click" in loaded
    assert not loaded & {"msgspec", "sqlite3", "yaml", "dms_executor.executor", "dms_executor.types"}


def test_ps_loads_no_engine_and_no_yaml(cli: Cli) -> None:
    loaded = _loaded(cli, "ps")
    assert "dms_executor.executor" in loaded
    assert not loaded & {"yaml", "dms_executor.oci", "dms_executor.testing", "dms_executor.cli.run"}


@pytest.mark.parametrize("name", group.list_commands(click.Context(group)))
def test_each_command_has_an_example(cli: Cli, name: str) -> None:
    finished = cli(name, "--help")
    assert finished.code == 0
    assert b"Example" in finished.out
    assert f"dms-executor {name}".encode() in finished.out or b"dms-executor --json" in finished.out


def test_help_lists_every_command(cli: Cli) -> None:
    shown = cli("--help").out.decode()
    assert all(f"  {name} " in shown for name in ("run", "ps", "logs", "wait", "cancel", "inspect", "rm", "engines"))


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out.startswith(b"dms-executor ")
