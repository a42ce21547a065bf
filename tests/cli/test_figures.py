"""`stats` and `events`, as a user types them."""

from __future__ import annotations

import json

from .conftest import LIMIT, Cli


def test_stats_of_a_running_job_once_and_as_json(cli: Cli, root: str) -> None:
    assert cli("run", "-d", "--id", "job", "--memory", "64MiB", root, "sleep", "1000").code == 0
    head, row = cli("stats", "--no-stream", "job").out.decode().splitlines()
    assert head.split()[0] == "ID"
    assert row.split()[0] == "job"
    assert "64.0MiB" in row
    sample = json.loads(cli("--json", "stats", "--no-stream").out)
    assert sample["execution_id"] == "job"
    assert sample["memory_limit_bytes"] == 64 << 20
    assert sample["cpu_percent"] >= 0


def test_stats_go_on_until_the_job_has_ended(cli: Cli, root: str) -> None:
    assert cli("run", "-d", "--id", "job", root, "sleep", "1000").code == 0
    process = cli.begin("--json", "stats", "--interval", "0.1", "job")
    assert process.stdout is not None
    for _ in range(2):
        assert json.loads(process.stdout.readline())["execution_id"] == "job"
    cli("cancel", "job")
    assert process.wait(LIMIT) == 0


def test_stats_of_one_that_does_not_run_are_one_clear_error(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "done"))
    for execution_id in ("done", "nosuch"):
        finished = cli("stats", execution_id)
        assert (finished.code, finished.out) == (1, b"")
        assert execution_id in finished.err
    assert cli("stats", "--no-stream").out.decode().splitlines()[1:] == []


def _events(cli: Cli, *options: str) -> list[tuple[str, str]]:
    seen = [json.loads(line) for line in cli("--json", "events", *options).out.splitlines()]
    return [(event["execution_id"], event["status"]) for event in seen]


def test_events_that_nobody_watched_are_there_and_can_be_chosen_from(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "one", "--label", "team=search", "--job-id", "nightly"))
    cli.memory("exit 3", options=("--id", "two", "--label", "team=other"))
    assert [status for name, status in _events(cli) if name == "one"] == ["pending", "running", "success"]
    assert len(_events(cli)) == 6
    assert {name for name, _ in _events(cli, "--id", "two")} == {"two"}
    assert {name for name, _ in _events(cli, "--job-id", "nightly")} == {"one"}
    assert {name for name, _ in _events(cli, "--label", "team=search")} == {"one"}
    assert _events(cli, "--label", "team=search", "--status", "failed") == []
    assert _events(cli, "--status", "failed", "--status", "success") == [("one", "success"), ("two", "failed")]
    assert _events(cli, "--after", "5") == [("two", "failed")]
    assert len(_events(cli, "--since", "10m")) == 6
    assert _events(cli, "--since", "2100-01-01") == []


def test_events_are_followed_from_now_on(cli: Cli) -> None:
    cli.memory("exit 0", options=("--id", "before"))
    process = cli.begin("--json", "events", "-f", "--since", "1h", "--status", "failed")
    cli.memory("exit 3", options=("--id", "after"))
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["execution_id"] == "after"
