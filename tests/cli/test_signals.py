"""Signals and closed pipes: what cancels a job, what leaves it, and with which code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .conftest import LIMIT, Cli, line_of


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_job(cli: Cli, number: signal.Signals, code: int) -> None:
    process = cli.begin("run", "--id", "e1", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    process.send_signal(number)
    assert process.wait(LIMIT) == code
    assert cli.status("e1") == "cancelled"


def test_a_second_sigint_kills_at_once(cli: Cli) -> None:
    process = cli.begin("run", "--engine", "memory", "trap TERM -1", "echo ready", "forever")
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGINT)
    line_of(process.stderr, "Ctrl-C again kills it")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert time.monotonic() - began < 8, "it waited for the grace of 10 s"


def test_sigint_while_the_image_is_prepared_cancels(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("engine_spec: {type: memory, params: {script: [echo never], prepare: 1000}}\n")
    events = cli.begin("events", "-f", "--after", "0")
    process = cli.begin("run", "--id", "e1", "-f", str(job))
    line_of(events.stdout, "pending")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    line_of(events.stdout, "cancelled")
    assert cli("logs", "e1").out == b""


def test_rm_removes_a_cancelled_job(cli: Cli) -> None:
    process = cli.begin("run", "--rm", "--engine", "memory", "echo ready", "forever")
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 143
    assert cli("ps", "-aq").out == b""


def test_nohup_is_heeded(cli: Cli) -> None:
    process = cli.begin("run", "--engine", "memory", "echo ready", "sleep 0.5", "exit 5", nohup=True)
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGHUP)
    assert process.wait(LIMIT) == 5


def test_a_reader_that_stops_reading_cannot_keep_a_cancelled_run(cli: Cli) -> None:
    process = cli.begin("run", "--engine", "memory", "echo ready", "flood 20000", "forever")
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 143


@pytest.mark.parametrize("steps", [("echo ready", "flood 20000", "forever"), ("echo ready", "forever")])
def test_a_closed_pipe_cancels_run(cli: Cli, steps: tuple[str, ...]) -> None:
    process = cli.begin("run", "--id", "e1", "--engine", "memory", *steps)
    line_of(process.stdout, "ready")
    process.stdout.close()
    assert process.wait(LIMIT) == 128 + signal.SIGPIPE
    assert cli.status("e1") == "cancelled"


def test_a_closed_pipe_ends_logs_quietly(cli: Cli) -> None:
    cli.memory("flood 20000", options=("--id", "e1"))
    process = cli.begin("logs", "e1")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(LIMIT) == 0
    assert process.stderr.read() == b""


def test_a_closed_pipe_ends_a_follower_that_has_nothing_to_write(cli: Cli) -> None:
    running = cli.begin("run", "--id", "e1", "--engine", "memory", "echo ready", "forever")
    line_of(running.stdout, "ready")
    process = cli.begin("logs", "-f", "e1")
    line_of(process.stdout, "ready")
    process.stdout.close()
    assert process.wait(LIMIT) == 0
    assert running.poll() is None


def test_ctrl_c_ends_a_follower_and_leaves_the_job(cli: Cli) -> None:
    running = cli.begin("run", "--id", "e1", "--engine", "memory", "echo ready", "forever")
    line_of(running.stdout, "ready")
    process = cli.begin("logs", "-f", "e1")
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert b"Traceback" not in process.stderr.read()
    assert cli.status("e1") == "running"


def test_ctrl_c_ends_events_quietly(cli: Cli) -> None:
    cli.memory("exit 0")
    process = cli.begin("events", "-f", "--after", "0")
    line_of(process.stdout, "success")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert process.stderr.read() == b""


def test_a_full_disk_behind_stdout_is_said(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        process = cli.begin("run", "--engine", "memory", "echo hi", "forever", stdout=full)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert b"cannot be written: No space left on device" in err


def test_sigkill_leaves_the_job(cli: Cli, root: str) -> None:
    process = cli.begin("run", "--id", "e1", root, "sh", "-c", "echo ready; cat /etc/data; exec sleep 1000")
    line_of(process.stdout, "ready")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(LIMIT)
    assert cli.status("e1") == "running"
    assert cli("cancel", "e1").code == 0
    assert cli("logs", "e1").out == b"ready\nno program\n"


def test_a_signal_cancels_a_container(cli: Cli, root: str) -> None:
    process = cli.begin("run", "--id", "e1", root, "sh", "-c", "echo ready; exec sleep 1000")
    line_of(process.stdout, "ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    assert cli.status("e1") == "cancelled"
