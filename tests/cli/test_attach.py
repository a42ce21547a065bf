"""`run -i`, `-t`, `-it`, `attach` and the keys that leave, as processes of their own and on a real terminal."""

from __future__ import annotations

import signal
import subprocess

import pytest

from dms_executor.cli.keys import DetachKeys
from dms_executor.errors import InvalidRequest

from .conftest import LIMIT, Cli, line_of
from .terminal import Terminal

_ECHO = 'while read word; do echo "<$word>"; done; echo over; exit 4'


# -- without a terminal ----------------------------------------------------------------------------------------------


def test_run_i_is_a_conversation(cli: Cli, root: str) -> None:
    process = cli.begin("run", "-i", root, "sh", "-c", _ECHO, stdin=subprocess.PIPE)
    assert process.stdin is not None
    for word in (b"one", b"two"):
        process.stdin.write(word + b"\n")
        process.stdin.flush()
        assert line_of(process.stdout, word.decode()) == f"<{word.decode()}>\n"
    process.stdin.close()
    assert line_of(process.stdout, "over") == "over\n"
    assert process.wait(LIMIT) == 4


def test_run_i_whose_job_does_not_read(cli: Cli, root: str) -> None:
    process = cli.begin("run", "-i", root, "sh", "-c", "exit 3", stdin=subprocess.PIPE)
    assert process.wait(LIMIT) == 3


def test_run_di_keeps_the_input_open_for_attach(cli: Cli, root: str) -> None:
    assert cli("run", "-di", "--id", "e1", root, "sh", "-c", _ECHO).code == 0
    process = cli.begin("attach", "e1", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"word\n")
    process.stdin.flush()
    assert line_of(process.stdout, "word") == "<word>\n"
    process.kill()
    process.wait(LIMIT)
    assert cli.status("e1") == "running"
    assert cli("attach", "e1", stdin=b"again\n") == (4, b"<again>\nover\n", "")
    assert cli("attach", "e1").code == 125, "it has ended"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_attach_and_leaves_the_job(cli: Cli, root: str, number: signal.Signals, code: int) -> None:
    assert cli("run", "-di", "--id", "e1", root, "sh", "-c", _ECHO).code == 0
    process = cli.begin("attach", "e1", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"word\n")
    process.stdin.flush()
    line_of(process.stdout, "word")
    process.send_signal(number)
    assert process.wait(LIMIT) == code
    assert cli("attach", "e1", stdin=b"again\n") == (4, b"<again>\nover\n", "")


def test_attach_without_stdin_only_looks_on(cli: Cli, root: str) -> None:
    script = "while sleep 0.1; do echo tick; done & read word; echo $word; exit 4"
    assert cli("run", "-di", "--id", "e1", root, "sh", "-c", script).code == 0
    looking = cli.begin("attach", "--no-stdin", "e1", stdin=subprocess.PIPE)
    assert looking.stdin is not None
    looking.stdin.write(b"not this\n")
    looking.stdin.close()
    line_of(looking.stdout, "tick")
    assert cli("attach", "e1", stdin=b"word\n").code == 4
    assert line_of(looking.stdout, "word") == "word\n"
    assert looking.wait(LIMIT) == 4


def test_a_closed_pipe_ends_attach_and_leaves_the_job(cli: Cli, root: str) -> None:
    assert cli("run", "-di", "--id", "e1", root, "sh", "-c", _ECHO).code == 0
    process = cli.begin("attach", "e1", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"word\n")
    process.stdin.flush()
    line_of(process.stdout, "word")
    process.stdout.close()
    assert process.wait(LIMIT) == 128 + signal.SIGPIPE
    assert cli.status("e1") == "running"


def test_attach_to_what_is_not_there(cli: Cli) -> None:
    assert cli("attach", "nobody").code == 125


def test_it_needs_a_terminal(cli: Cli, root: str) -> None:
    done = cli("run", "-it", root, "sh")
    assert done.code == 125
    assert "not a TTY" in done.err
    assert cli("ps", "-aq").out == b""
    assert cli("run", "-dit", "--id", "e1", root, "sh").code == 0
    assert "not a TTY" in cli("attach", "e1").err


def test_t_alone_takes_no_terminal_of_ours(cli: Cli, root: str) -> None:
    assert cli("run", "-t", root, "sh", "-c", "test -t 1 && stty size") == (0, b"24 80\r\n", "")


def test_json_says_nothing_of_a_terminal(cli: Cli, root: str) -> None:
    assert cli("--json", "run", "-t", root, "sh").code == 125


# -- on a terminal ---------------------------------------------------------------------------------------------------


def test_run_it(cli: Cli, root: str) -> None:
    with Terminal(100, 40) as terminal:
        script = "echo first; tty; stty size; exec sh"
        process = terminal.run(cli, "run", "-it", "--id", "e1", root, "sh", "-c", script)
        assert terminal.until(b"# ").splitlines()[:3] == [b"first", b"/dev/pts/0", b"40 100"]
        terminal.resize(90, 30)
        terminal.type(b"while test \"$(stty size)\" != '30 90'; do :; done; echo $((40 + 2))\r")
        terminal.until(b"42\r\n")
        assert not terminal.restored
        # Said by the child itself, which is in the foreground by then.
        terminal.type(b"sh -c 'echo $((3 * 7)); exec sleep 1000'\r")
        terminal.until(b"21\r\n")
        terminal.type(b"\x03")
        terminal.until(b"# ")
        terminal.type(b"sh -c 'echo $((4 * 7)); exec sleep 1000'\r")
        terminal.until(b"28\r\n")
        terminal.type(b"\x1a")
        terminal.until(b"Stopped")
        terminal.type(b"exit; exit 7\r")
        assert process.wait(LIMIT) == 7
        assert terminal.restored
    assert b"first\r\n/dev/pts/0\r\n40 100\r\n" in cli("logs", "--stdout", "e1").out
    assert cli("logs", "--stderr", "e1").out == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_and_restores_the_terminal(cli: Cli, root: str, number: signal.Signals, code: int) -> None:
    with Terminal() as terminal:
        process = terminal.run(cli, "run", "-it", "--id", "e1", root, "sh", "-c", "echo ready; exec sleep 1000")
        terminal.until(b"ready")
        process.send_signal(number)
        assert process.wait(LIMIT) == code
        assert terminal.restored
    assert cli.status("e1") == "cancelled"


def test_sigquit_restores_the_terminal(cli: Cli, root: str) -> None:
    with Terminal() as terminal:
        process = terminal.run(cli, "run", "-it", root, "sh", "-c", "echo ready; exec sleep 1000")
        terminal.until(b"ready")
        process.send_signal(signal.SIGQUIT)
        assert process.wait(LIMIT) == -signal.SIGQUIT
        assert terminal.restored


def test_a_closed_pipe_restores_the_terminal(cli: Cli, root: str) -> None:
    with Terminal() as terminal:
        script = "echo ready; exec sleep 1000"
        process = cli.begin("run", "-it", root, "sh", "-c", script, stdin=terminal.slave, controls=True)
        assert process.stdout is not None
        line_of(process.stdout, "ready")
        process.stdout.close()
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE
        assert terminal.restored


def test_the_keys_that_leave_and_the_way_back(cli: Cli, root: str) -> None:
    with Terminal() as terminal:
        process = terminal.run(cli, "run", "-it", "--rm", "--id", "e1", root, "sh")
        terminal.until(b"# ")
        terminal.type(b"A=kept; echo $((40 + 2))\r")
        terminal.until(b"42\r\n")
        terminal.until(b"# ")
        terminal.type(b"\x10\x11")
        assert process.wait(LIMIT) == 0
        assert terminal.restored
        assert cli.status("e1") == "running"
        process = terminal.run(cli, "attach", "--detach-keys", "ctrl-a,d", "e1")
        terminal.until(b"# ")  # drawn anew, since the size was told
        terminal.type(b"echo $A $((3 * 7))\r")
        terminal.until(b"kept 21\r\n")
        terminal.until(b"# ")
        terminal.type(b"\x01d")
        assert process.wait(LIMIT) == 0
        assert terminal.restored
        process = terminal.run(cli, "attach", "e1")
        terminal.until(b"# ")
        terminal.type(b"exit 9\r")
        assert process.wait(LIMIT) == 9
        assert terminal.restored


def test_the_keys_that_leave_end_an_exec_and_leave_the_job(cli: Cli, root: str) -> None:
    assert cli("run", "-d", "--id", "e1", root, "sleep", "1000").code == 0
    with Terminal() as terminal:
        process = terminal.run(cli, "exec", "-it", "e1", "sh")
        terminal.until(b"# ")
        terminal.type(b"\x10\x11")
        assert process.wait(LIMIT) == 0
        assert terminal.restored
    assert cli.status("e1") == "running"


def test_a_killed_client_leaves_the_job_on_its_terminal(cli: Cli, root: str) -> None:
    with Terminal() as terminal:
        process = terminal.run(cli, "run", "-it", "--id", "e1", root, "sh")
        terminal.until(b"# ")
        process.kill()
        process.wait(LIMIT)
    with Terminal() as other:
        process = other.run(cli, "attach", "e1")
        other.until(b"# ")
        other.type(b"exit 5\r")
        assert process.wait(LIMIT) == 5


def test_a_job_that_is_over_at_once_shows_all(cli: Cli, root: str) -> None:
    with Terminal() as terminal:
        process = terminal.run(cli, "run", "-it", root, "echo", "hi")
        terminal.until(b"hi\r")
        assert process.wait(LIMIT) == 0
        assert terminal.restored


# -- the keys --------------------------------------------------------------------------------------------------------


def test_the_keys_are_found_wherever_they_are_cut() -> None:
    keys = DetachKeys()
    assert keys.feed(b"a\x10") == (b"a", False)
    assert keys.feed(b"b\x10") == (b"\x10b", False)
    assert keys.feed(b"\x10") == (b"\x10", False)
    assert keys.feed(b"\x11after") == (b"", True)
    assert DetachKeys("ctrl-@,x").feed(b"y\0xz") == (b"y", True)
    assert DetachKeys("").feed(b"\x10\x11") == (b"\x10\x11", False)


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", "a,,b", "ctrl-1", "\x01", "é"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no key"):
        DetachKeys(text)


def test_keys_that_are_none_are_refused_before_anything_is_made(cli: Cli, root: str) -> None:
    done = cli("run", "--detach-keys", "nonsense", root, "true")
    assert done.code == 125
    assert "is no key" in done.err
    assert cli("ps", "-aq").out == b""
