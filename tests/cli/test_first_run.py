"""The first minute: no arguments, no engine; and --json with all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LIMIT, Cli


def test_alone_it_teaches_the_first_job_until_there_was_one(cli: Cli) -> None:
    finished = cli()
    assert (finished.code, finished.err) == (0, "")
    assert b"Commands:" in finished.out
    assert b"dms-executor run rootfs:root" in finished.out
    assert not cli.state_dir.exists()
    cli.memory("exit 0")
    again = cli().out
    assert b"rootfs:root sh" not in again
    assert b"dms-executor engines" in again


def test_the_first_job_that_it_teaches_runs(cli: Cli, root: str, tmp_path: Path) -> None:
    lines = [line.strip() for line in cli("--state-dir", str(tmp_path / "new")).out.decode().splitlines()]
    begin = lines.index('install -D "$(command -v busybox)" root/bin/sh')
    program = tmp_path / "bin" / "dms-executor"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dms_executor.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "here").mkdir()
    environment = cli.environment()
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    script = "\n".join(lines[begin : begin + 2])
    done = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path / "here", env=environment, capture_output=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")


def test_alone_with_json_it_is_a_usage_error_as_one_object(cli: Cli) -> None:
    finished = cli("--json")
    assert (finished.code, finished.out) == (2, b"")
    assert json.loads(finished.err)["type"] == "UsageError"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--json", "nosuch"], "UsageError"),
        (["ps", "--json", "--bogus"], "UsageError"),
        (["logs", "--json", "x"], "ExecutionNotFound"),
    ],
)
def test_an_error_is_one_object_wherever_json_stands(cli: Cli, arguments: list[str], kind: str) -> None:
    finished = cli(*arguments)
    (line,) = finished.err.splitlines()
    assert json.loads(line)["type"] == kind


def test_the_log_is_json_as_well_unless_it_is_said_otherwise(cli: Cli) -> None:
    run = ("run", "--json", "--engine", "memory", "exit 0")
    records = [json.loads(line) for line in cli("-v", *run).err.splitlines()]
    assert records
    assert all(record["level"] == "INFO" for record in records)
    assert cli("-v", "--log-format", "text", *run).err.startswith("dms-executor: INFO: ")


def test_exec_gives_its_result_as_one_object(cli: Cli, root: str) -> None:
    cli("run", "-d", "--id", "job", root, "sleep", "1000")
    done = cli("--json", "exec", "-i", "job", "sh", "-c", "cat; echo no >&2; exit 3", stdin=b"in\xff")
    assert (done.code, done.err) == (3, "")
    result = json.loads(done.out)
    assert (result["execution_id"], result["exit_code"], result["stderr"]) == ("job", 3, "no\n")
    assert result["stdout_base64"] == "aW7/"
