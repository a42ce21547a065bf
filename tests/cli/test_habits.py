"""Who comes from docker or podman is understood, or told what it is called here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import LIMIT, Cli, line_of


def test_dockers_names_of_commands(cli: Cli, root: str) -> None:
    process = cli.begin("run", "--name", "e1", root, "sh", "-c", "echo ready; exec sleep 1000")
    line_of(process.stdout, "ready")
    assert cli("pause", "e1").code == cli("unpause", "e1").code == 0
    assert cli("ls", "-q").out == b"e1\n"
    assert cli("stop", "-t", "5", "e1").out == b"e1\n"
    assert process.wait(LIMIT) == 143


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["top", "x"], "exec ID ps"),
        (["container", "ls"], "dms-executor ps"),
        (["restart", "x"], "runs once"),
        (["cancle", "x"], "Did you mean `cancel`?"),
        (["frobnicate"], "dms-executor --help"),
        (["run", "--privileged", "x"], "--device"),
        (["run", "--restart", "always", "x"], "runs once"),
        (["run", "--memroy", "1g", "x"], "--memory"),
        (["ps", "--format", "x"], "--json"),
    ],
)
def test_what_is_called_otherwise_is_told(cli: Cli, arguments: list[str], said: str) -> None:
    finished = cli(*arguments)
    assert finished.code == (125 if arguments[0] == "run" else 2)
    assert said in finished.err
    assert not cli.state_dir.exists()


def test_the_last_ones(cli: Cli) -> None:
    for name in ("e1", "e2", "e3"):
        cli.memory("exit 0", options=("--id", name))
    assert cli("ps", "-lq").out == b"e3\n"
    assert cli("ps", "-q", "-n", "2").out == b"e3\ne2\n"
    assert cli("ps", "-q", "-n", "0").out == b""


def test_options_of_run_reach_the_request(cli: Cli, root: str, tmp_path: Path) -> None:
    script = tmp_path / "10-first"
    script.write_text("#!/bin/sh\necho first\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data\n")
    options = (
        *("--name", "e1", "-m", "64MiB", "--pids-limit", "32", "--net", "none", "--read-only"),
        *("--timeout", "1m30s", "--persist-logs", "1h", "--secret-env", "TOKEN=hunter2", "--provision", str(script)),
        *(
            "--mount",
            f"type=bind,src={tmp_path / 'data'},dst=/data,ro",
            "--mount",
            "type=tmpfs,target=/t,tmpfs-size=1MiB",
        ),
        *("--entrypoint", "sh"),
    )
    finished = cli("run", *options, root, "-c", "cat /data/file; echo $TOKEN; touch /t/x && ! touch /x 2>/dev/null")
    assert (finished.code, finished.out) == (0, b"first\ndata\nhunter2\n")
    shown = cli("--json", "inspect", "--show-environment", "e1").out
    assert b"hunter2" not in shown
    request = json.loads(shown)["request"]
    assert (request["timeout"], request["persist_logs"], request["resources"]["pids"]) == (90.0, 3600.0, 32)
    assert [volume["read_only"] for volume in request["inputs"][:1]] == [True]


@pytest.mark.parametrize("text", ["type=bind", "type=bind,what=x,dst=/x", "dst", "src=/x"])
def test_a_mount_that_is_none_is_refused(cli: Cli, text: str) -> None:
    finished = cli("run", "--mount", text, "--engine", "memory", "exit 0")
    assert finished.code == 125
    assert "--mount" in finished.err


def test_paths_of_a_job_file_are_from_its_folder(cli: Cli, root: str, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "file").write_text("data\n")
    (folder / "root").symlink_to(root.removeprefix("rootfs:"))
    job = folder / "job.yaml"
    job.write_text(
        "engine_spec: {params: {image: 'rootfs:root', cmd: [cat, /data/file]}}\n"
        "inputs: [{source: ./data, target: /data}]\n"
        "outputs: [{source: ../out, target: /out}]\n"
    )
    assert cli("run", "-f", str(job)) == (0, b"data\n", "")
    assert (tmp_path / "out").is_dir()


def test_an_id_of_a_command_line_counts_more_than_the_files_in_start_too(cli: Cli, root: str, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    spec = {"params": {"image": root, "cmd": ["sh", "-c", "exit 4"]}}
    job.write_text(json.dumps({"execution_id": "file", "timeout": 50, "engine_spec": spec}))
    assert cli("start", "-f", str(job), "--id", "option").out == b"option\n"
    assert cli("wait", "option").out == b"4\n"
    assert json.loads(cli("--json", "inspect", "option").out)["request"]["timeout"] == 50.0
