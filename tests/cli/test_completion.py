"""Completion: what a shell is told, and real shells with the script that we print."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LIMIT, Cli, line_of


def _completed(cli: Cli, *words: str) -> list[str]:
    """What bash is told for a line whose last word the key was pressed in."""
    asked = {"_DMS_EXECUTOR_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
    finished = cli(env={**asked, "COMP_WORDS": " ".join(["dms-executor", *words])})
    assert finished.err == ""
    return [line.partition(",")[2] for line in finished.out.decode().splitlines() if line]


def test_commands_options_and_choices(cli: Cli) -> None:
    assert _completed(cli, "ca") == ["cancel"]
    assert _completed(cli, "ps", "--sta") == ["--status", "--state-dir"]
    assert _completed(cli, "ps", "--status", "pa") == ["paused"]
    assert {"memory", "oci"} <= set(_completed(cli, "run", "--engine", ""))
    assert _completed(cli, "kill", "-s", "sigter") == ["TERM"]
    assert not cli.state_dir.exists(), "completing made a state folder"


def test_ids_that_the_command_can_be_used_on(cli: Cli) -> None:
    cli.memory("exit 3", options=("--id", "e-done"))
    process = cli.begin("run", "--id", "e-alive", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    assert _completed(cli, "cancel", "e") == ["e-alive"]
    assert _completed(cli, "logs", "e") == ["e-alive", "e-done"]
    assert _completed(cli, "logs", "e-d") == ["e-done"]
    assert _completed(cli, "rm", "e-done", "e-a") == ["e-alive"]
    assert _completed(cli, "cp", "e") == ["e-alive:"]
    assert _completed(cli, "cp", "./") == [""]  # a file: the shell's own completion


def test_ids_of_the_state_folder_that_is_named(cli: Cli, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    cli("run", "--state-dir", other, "--id", "there", "--engine", "memory", "exit 0")
    assert _completed(cli, "logs", "") == []
    assert _completed(cli, "--state-dir", other, "logs", "") == ["there"]


def test_a_state_folder_that_cannot_be_read_says_nothing_in_the_middle_of_a_line(cli: Cli) -> None:
    cli.state_dir.mkdir()
    (cli.state_dir / "journal.db").mkdir()
    assert _completed(cli, "logs", "") == []


_PRESS = {
    "bash": 'source "$1"; COMP_WORDS=(dms-executor logs e); COMP_CWORD=2; _dms_executor_completion dms-executor; '
    'echo "${COMPREPLY[@]}"',
    "fish": 'source $argv[1]; complete -C "dms-executor logs e"',
    "zsh": 'autoload -U compinit; compinit -u -D; source "$1"; [[ -n $_comps[dms-executor] ]] && echo e-done',
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_in_its_shell(cli: Cli, tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    cli.memory("exit 0", options=("--id", "e-done"))
    script = tmp_path / "script"
    script.write_bytes(cli("completion", shell).out)
    tool = tmp_path / "bin" / "dms-executor"
    tool.parent.mkdir()
    environment = cli.environment()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m dms_executor.cli "$@"\n')
    tool.chmod(0o755)
    environment["PATH"] = f"{tool.parent}:{environment['PATH']}"
    given = ["-c", _PRESS[shell], *([] if shell == "fish" else [shell]), str(script)]
    done = subprocess.run([program, *given], env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.split()[:1] == ["e-done"], done.stderr
