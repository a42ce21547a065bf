"""What starts quickly loads little; docs/benchmarks.md has the times."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    theirs = subprocess.run(
        [sys.executable, "-c", "import asyncio, click, msgspec, sqlite3, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    own = loaded - set(theirs.stdout.split())
    assert not own & {"json", "shlex", "hashlib"}, "a millisecond or some each, for what ps does not need"


def test_a_bare_import_loads_nothing_but_logging() -> None:
    program = "import sys; before = set(sys.modules); import dms_executor; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", program]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert {name for name in loaded if name.startswith("dms_executor")} == {"dms_executor"}
    assert not loaded & {"asyncio", "msgspec", "sqlite3", "click", "yaml"}


_LOOKS = [
    ("ps", "-a"),
    ("logs", "x"),
    ("wait", "x"),
    ("inspect", "x"),
    ("rm", "x"),
    ("events",),
    ("stats", "--no-stream"),
    ("port", "x"),
]


@pytest.mark.parametrize("arguments", _LOOKS, ids=" ".join)
def test_a_command_that_looks_loads_no_engine_and_nothing_of_run(cli: Cli, arguments: tuple[str, ...]) -> None:
    loaded = _loaded(cli, *arguments)
    assert "dms_executor.executor" in loaded
    engines = {name for name in loaded if name.split(".")[1:2] in (["oci"], ["docker"], ["qemu"], ["testing"])}
    assert not engines
    assert not loaded & {"yaml", "importlib.metadata", "dms_executor.cli.run", "dms_executor.cli.request"}


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out.startswith(b"dms-executor ")
