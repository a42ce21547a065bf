"""The commands that look at executions or act on one that another process started."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import LIMIT, Cli, line_of


def test_ps_shows_what_is_alive_and_with_a_what_has_finished(cli: Cli) -> None:
    cli.memory("exit 3", options=("--id", "done", "--label", "team=search", "--job-id", "nightly"))
    process = cli.begin("run", "--id", "alive", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    alive = cli("ps").out.decode().splitlines()
    assert alive[0].split() == ["ID", "ENGINE", "IMAGE", "COMMAND", "CREATED", "STATUS"]
    assert [line.split()[0] for line in alive[1:]] == ["alive"]
    assert "running" in alive[1]
    whole = cli("ps", "-a").out.decode().splitlines()[1:]
    assert [line.split()[0] for line in whole] == ["alive", "done"]
    assert re.search(r"exited \(3\) .* ago$", whole[1])
    assert cli("ps", "-q", "--status", "failed").out == b"done\n"
    assert cli("ps", "-aq", "--job-id", "nightly").out == b"done\n"
    assert cli("ps", "-aq", "--label", "team=search").out == b"done\n"
    assert cli("ps", "-aq", "--label", "team=other").out == b""


def test_ps_and_inspect_hide_environment_values(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "e1", "-e", "TOKEN=hunter2"))
    assert b"hunter2" not in cli("--json", "ps", "-a").out
    shown = cli("inspect", "e1").out
    assert b"hunter2" not in shown
    assert "TOKEN" in json.loads(shown)["request"]["environment"]
    on_demand = json.loads(cli("inspect", "--show-environment", "e1").out)
    assert on_demand["request"]["environment"] == {"TOKEN": "hunter2"}


def test_logs_give_both_streams_apart_one_alone_and_the_last_lines(cli: Cli) -> None:
    cli.memory("echo 1", "error 2", "echo 3", options=("--id", "e1"))
    assert cli("logs", "e1") == (0, b"1\n3\n", "2\n")
    assert cli("logs", "--stdout", "e1") == (0, b"1\n3\n", "")
    assert cli("logs", "--stderr", "e1") == (0, b"", "2\n")
    assert cli("logs", "-n", "1", "e1") == (0, b"3\n", "")
    assert cli("logs", "--since", "1h", "e1").out == b"1\n3\n"
    assert cli("logs", "--since", "2100-01-01", "e1").out == b""


def test_logs_with_timestamps_put_one_before_each_line(cli: Cli) -> None:
    cli.memory("print a", "print b", "echo ", "echo c", options=("--id", "e1"))
    lines = cli("logs", "-t", "e1").out.decode().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
    assert [re.sub(f"^{stamp}", "|", line) for line in lines] == ["|ab", "|c"]


def test_logs_as_json_keep_what_is_no_text(cli: Cli) -> None:
    cli.memory("bytes /w==", options=("--id", "e1"))
    entry = json.loads(cli("--json", "logs", "e1").out)
    assert (entry["stream"], entry["data"], entry["data_base64"]) == ("stdout", "�", "/w==")


def test_logs_follow_a_job_of_another_process_to_its_end(cli: Cli) -> None:
    process = cli.begin("run", "--id", "e1", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    follower = cli.begin("logs", "-f", "e1")
    line_of(follower.stdout, "ready")
    process.terminate()
    assert follower.wait(LIMIT) == 0


def test_wait_prints_the_code_and_exits_0(cli: Cli) -> None:
    cli.memory("exit 3", options=("--id", "e1"))
    cli.memory("lose", options=("--id", "e2"))
    assert cli("wait", "e1", "e2") == (0, b"3\n125\n", "")
    assert json.loads(cli("--json", "wait", "e1").out)["exit_code"] == 3


def test_rm_frees_the_id_and_refuses_what_runs(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "e1"))
    assert cli("rm", "e1").out == b"e1\n"
    assert cli.memory("exit 0", options=("--id", "e1")).code == 0
    process = cli.begin("run", "--id", "alive", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    refused = cli("rm", "alive")
    assert refused.code == 1
    assert "force" in refused.err


def test_one_unknown_id_does_not_keep_the_others(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "e1"))
    finished = cli("rm", "nosuch", "e1")
    assert (finished.code, finished.out) == (1, b"e1\n")
    assert "no execution nosuch" in finished.err


@pytest.mark.parametrize("command", ["logs", "wait", "cancel", "kill", "pause", "resume", "rm", "inspect"])
def test_an_unknown_id_is_one_clear_error(cli: Cli, command: str) -> None:
    finished = cli(command, "nosuch")
    assert (finished.code, finished.out) == (1, b"")
    assert finished.err.splitlines()[0] == "dms-executor: there is no execution nosuch"


def test_events_are_replayed(cli: Cli) -> None:
    cli.memory("exit 3", options=("--id", "e1"))
    process = cli.begin("--json", "events", "-f", "--after", "0")
    seen = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [event["status"] for event in seen] == ["pending", "running", "failed"]


def test_engines_say_what_is_usable_and_how_to_mend_the_rest(cli: Cli) -> None:
    probes = [json.loads(line) for line in cli("--json", "engines").out.splitlines()]
    assert {"memory", "oci", "docker"} <= {probe["engine"] for probe in probes}
    shown = cli("engines").out.decode()
    for probe in probes:
        assert probe["usable"] or (probe["problem"] in shown and probe["mend"] in shown and probe["mend"])


def test_the_state_folder_is_chosen_before_or_behind_the_command(cli: Cli, tmp_path: object) -> None:
    other = f"{tmp_path}/other"
    cli("--state-dir", other, "run", "--id", "e1", "--engine", "memory", "exit 0")
    assert cli("ps", "-aq").out == b""
    assert cli("ps", "-aq", "--state-dir", other).out == b"e1\n"


def test_a_state_folder_that_cannot_be_is_one_clear_error(cli: Cli) -> None:
    finished = cli("--state-dir", "/proc/nowhere", "ps")
    assert finished.code == 1
    assert finished.err.startswith("dms-executor: ")


@pytest.mark.parametrize("how", [("start",), ("run", "-d")])
def test_a_detached_job_runs_on_and_its_id_is_all_that_is_printed(cli: Cli, root: str, how: tuple[str, ...]) -> None:
    begun = cli(*how, root, "sh", "-c", "echo out; exit 4")
    assert begun.code == 0
    (execution_id,) = begun.out.decode().split()
    assert cli("wait", execution_id).out == b"4\n"
    assert cli("logs", "-f", execution_id).out == b"out\n"


def test_cancel_pause_and_kill_from_another_process(cli: Cli, root: str) -> None:
    run = cli.begin("run", "--id", "e1", root, "sh", "-c", "echo ready; exec sleep 1000")
    line_of(run.stdout, "ready")
    assert cli("pause", "e1").out == b"e1\n"
    assert cli.status("e1") == "paused"
    assert cli("resume", "e1").code == 0
    assert cli.status("e1") == "running"
    assert cli("cancel", "e1").out == b"e1\n"
    assert run.wait(LIMIT) == 143
    again = cli.begin("run", "--id", "e2", root, "sh", "-c", "echo ready; exec sleep 1000")
    line_of(again.stdout, "ready")
    assert cli("kill", "-s", "KILL", "e2").code == 0
    assert again.wait(LIMIT) == 137
    assert cli("cancel", "e2").code == 1


def test_cleanup_says_what_went(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "done"))
    assert cli("cleanup").out == b"0 records, 0 images and 0 leftovers removed, 0 bytes freed\n"
    assert json.loads(cli("--json", "cleanup", "--running").out)["executions"] == 0
    assert cli("ps", "-aq").out == b"done\n"
