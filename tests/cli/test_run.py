"""`run`: exit codes, output, stdin, job files, ids."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Cli


def test_run_exits_with_the_jobs_code(cli: Cli) -> None:
    assert cli.memory("exit 3").code == 3


def test_a_job_that_ends_well_exits_0_and_nothing_is_said(cli: Cli) -> None:
    assert cli.memory("echo hi") == (0, b"hi\n", "")


def test_streams_stay_apart_and_exact(cli: Cli) -> None:
    raw = bytes(range(256))
    finished = cli.memory("bytes " + base64.b64encode(raw).decode(), "error oops")
    assert finished.out == raw
    assert finished.err == "oops\n"


def test_a_job_killed_by_a_signal_exits_128_and_n(cli: Cli) -> None:
    assert cli.memory("kill KILL").code == 137


@pytest.mark.parametrize("code", [125, 126, 127, 137])
def test_the_jobs_own_code_is_kept_whatever_it_is(cli: Cli, code: int) -> None:
    assert cli.memory(f"exit {code}") == (code, b"", "")


def test_a_timeout_exits_124(cli: Cli) -> None:
    finished = cli.memory("forever", options=("--timeout", "0.2"))
    assert finished.code == 124
    assert "timeout of 0.2 s" in finished.err


def test_a_lost_job_exits_125(cli: Cli) -> None:
    assert cli.memory("lose").code == 125


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'IMAGE'"),
        (["run", "--bogus"], "--bogus"),
        (["run", "--cpus", "many", "x"], "many"),
        (["run", "--engine", "nosuch", "x"], "no engine 'nosuch'"),
        (["run", "--engine", "memory", "dance"], "'dance' is no step"),
        (["run", "--engine", "memory", "--memory", "10Q", "exit 0"], "$.resources.memory"),
        (["run", "--engine", "memory", "--id", "a/b", "exit 0"], "$.execution_id"),
        (["run", "--engine", "memory", "-t", "exit 0"], "has no tty"),
        (["run", "--rm", "-d", "x"], "--rm"),
        (["run", "-v", "nonsense", "x"], "SRC:DST"),
        (["run", "-f", "/nonexistent/job.yaml"], "No such file"),
    ],
)
def test_what_cannot_be_made_exits_125_with_a_sentence(cli: Cli, arguments: list[str], said: str) -> None:
    finished = cli(*arguments)
    assert finished.code == 125
    assert said in finished.err
    assert len(finished.err.splitlines()) <= 2
    assert cli("ps", "-aq").out == b""


@pytest.mark.parametrize("arguments", [["ps", "--bogus"], ["nosuch"], ["wait"], ["--bogus"]])
def test_other_wrong_usage_exits_2(cli: Cli, arguments: list[str]) -> None:
    assert cli(*arguments).code == 2


def test_text_that_is_not_utf8_is_refused(cli: Cli) -> None:
    finished = cli("run", "--engine", "memory", "echo \udcff")
    assert finished.code == 125
    assert "not UTF-8" in finished.err


def test_a_closed_stdout_harms_nothing(cli: Cli) -> None:
    script = 'exec "$0" -m dms_executor.cli run --id e1 --engine memory "echo hi" "exit 3" <&- >&-'
    process = subprocess.run(["/bin/sh", "-c", script, sys.executable], env=cli.environment(), timeout=60)
    assert process.returncode == 3
    assert cli("logs", "e1").out == b"hi\n"


def test_verbose_tells_the_transitions_on_stderr(cli: Cli) -> None:
    finished = cli("-v", "run", "--id", "e1", "--engine", "memory", "echo hi")
    assert finished.out == b"hi\n"
    assert "dms-executor: INFO: running [e1]" in finished.err
    as_json = cli("-v", "--log-format", "json", "run", "--id", "e2", "--engine", "memory", "exit 0").err
    assert {json.loads(line)["execution_id"] for line in as_json.splitlines()} == {"e2"}


def test_a_failed_preparation_exits_125(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("engine_spec: {type: memory, params: {fail: prepare}}\n")
    assert cli("run", "-f", str(job)).code == 125


def test_a_job_file_is_executed_and_options_count_more(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "job_id: nightly\n"
        "environment: {A: file, B: file}\n"
        "engine_spec:\n  type: memory\n  params:\n    script: [env A, env B]\n"
    )
    finished = cli("run", "-f", str(job), "-e", "A=option", "--id", "e1")
    assert finished.out == b"option\nfile\n"
    assert json.loads(cli("--json", "inspect", "e1").out)["request"]["job_id"] == "nightly"


def test_a_json_job_file_from_stdin(cli: Cli) -> None:
    job = {"engine_spec": {"type": "memory", "params": {"script": ["echo from stdin"]}}}
    assert cli("run", "-f", "-", stdin=json.dumps(job).encode()).out == b"from stdin\n"


def test_an_unknown_field_of_a_job_file_is_named(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"engine_spec": {"type": "memory", "params": {"script": []}}, "memroy": 1}')
    finished = cli("run", "-f", str(job))
    assert finished.code == 125
    assert "memroy" in finished.err


def test_environment_from_options_from_here_and_from_a_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nA=file\nC=file=with=equals\n\nHERE\n")
    options = ("--env-file", str(file), "-e", "A=option", "-e", "HERE_TOO", "-e", "UNSET_HERE")
    steps = ("env A", "env C", "env HERE", "env HERE_TOO", "env UNSET_HERE")
    environment = {"HERE": "1", "HERE_TOO": "2"}
    finished = cli("run", *options, "--engine", "memory", *steps, env=environment)
    assert finished.out == b"option\nfile=with=equals\n1\n2\n\n"


def test_stdin_reaches_the_job_only_if_asked(cli: Cli) -> None:
    assert cli("run", "-i", "--engine", "memory", "cat", stdin=b"a\0b").out == b"a\0b"
    assert cli("run", "--engine", "memory", "cat", stdin=b"a\0b").out == b""


def test_too_much_stdin_is_refused_with_a_way_out(cli: Cli) -> None:
    finished = cli("run", "-i", "--engine", "memory", "cat", stdin=bytes(64 * 2**20 + 1))
    assert finished.code == 125
    assert "64 MiB" in finished.err


def test_rm_leaves_nothing(cli: Cli) -> None:
    assert cli.memory("exit 4", options=("--rm",)).code == 4
    assert cli("ps", "-aq").out == b""


def test_rm_spares_an_earlier_execution_of_the_id(cli: Cli) -> None:
    cli.memory("echo first", options=("--id", "e1"))
    finished = cli.memory("echo second", options=("--id", "e1", "--rm"))
    assert finished.code == 125
    assert cli("logs", "e1").out == b"first\n"


def test_a_taken_id_is_refused(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "e1"))
    finished = cli.memory("exit 0", options=("--id", "e1"))
    assert finished.code == 125
    assert "e1 has finished" in finished.err


def test_json_gives_the_result_as_one_line(cli: Cli) -> None:
    finished = cli("--json", "run", "--engine", "memory", "echo hi", "exit 3")
    assert finished.code == 3
    result = json.loads(finished.out)
    assert (result["exit_code"], result["stdout"], result["status"]) == (3, "hi\n", "failed")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--json", "run", "--engine", "nosuch", "x"], "InvalidRequest"),
        (["run", "--json", "--bogus"], "UsageError"),
        (["wait", "--json", "nosuch"], "ExecutionNotFound"),
    ],
)
def test_json_gives_an_error_as_one_object_on_stderr(cli: Cli, arguments: list[str], kind: str) -> None:
    finished = cli(*arguments)
    assert finished.out == b""
    error = json.loads(finished.err)
    assert error["type"] == kind
    assert {"message", "mend", "execution_id"} < error.keys()


def test_options_behind_the_image_are_the_jobs(cli: Cli, root: str) -> None:
    assert cli("run", root, "echo", "--rm", "-d").out == b"--rm -d\n"


def test_a_command_that_is_not_there_exits_127(cli: Cli, root: str) -> None:
    finished = cli("run", root, "nosuch")
    assert finished.code == 127
    assert "nosuch" in finished.err


def test_a_command_that_is_not_executable_exits_126(cli: Cli, root: str) -> None:
    assert cli("run", root, "/etc/data").code == 126


def test_a_missing_image_exits_125(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "--engine", "oci", f"rootfs:{tmp_path}/nosuch", "true").code == 125


def test_a_relative_root_is_one_from_here(cli: Cli, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("run", "rootfs:root", "echo", "hi").out == b"hi\n"


def test_volumes_and_outputs(cli: Cli, root: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("given")
    mounts = ("-v", f"{tmp_path}/in:/in:ro", "--output", f"{tmp_path}/out:/out", "--tmpfs", "/scratch:1MiB")
    script = "cat /in/file > /out/copy; touch /in/new && exit 9; touch /scratch/x"
    assert cli("run", *mounts, root, "sh", "-c", script).code == 0
    assert (tmp_path / "out/copy").read_text() == "given"


def test_a_big_file_as_stdin(cli: Cli, root: str, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 2**13)
    with big.open("rb") as file:
        process = cli.begin("run", "-i", root, "cat", stdin=file)
        out, _ = process.communicate(timeout=60)
    assert out == big.read_bytes()
