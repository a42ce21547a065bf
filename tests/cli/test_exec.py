"""`exec` as a process of its own, with pipes and with a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import termios

import pytest

from .conftest import Cli


@pytest.fixture
def job(cli: Cli, root: str) -> str:
    """The id of a job that runs."""
    assert cli("run", "-d", "--id", "job", root, "sleep", "1000").code == 0
    return "job"


def test_input_output_and_code(cli: Cli, job: str) -> None:
    done = cli("exec", "-i", "-e", "A=b", job, "sh", "-c", 'cat; echo "$A" >&2; exit 3', stdin=b"in")
    assert (done.code, done.out, done.err) == (3, b"in", "b\n")


def test_without_i_there_is_no_input(cli: Cli, job: str) -> None:
    assert cli("exec", job, "cat", stdin=b"in") == (0, b"", "")


@pytest.mark.parametrize(("words", "code"), [(["/no/such"], 127), (["/bin"], 126)])
def test_what_cannot_be_executed(cli: Cli, job: str, words: list[str], code: int) -> None:
    done = cli("exec", job, *words)
    assert done.code == code
    assert words[0] in done.err


def test_one_that_is_not_there(cli: Cli) -> None:
    assert cli("exec", "nobody", "true").code == 125


def test_a_timeout(cli: Cli, job: str) -> None:
    assert cli("exec", "--timeout", "0.5", job, "sleep", "1000").code == 124


def test_a_signal_ends_the_command_and_leaves_the_job(cli: Cli, job: str) -> None:
    process = cli.begin("exec", job, "sh", "-c", "echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert cli("ps", "-q").out.split() == [b"job"]


def test_t_needs_a_terminal(cli: Cli, job: str) -> None:
    done = cli("exec", "-it", job, "sh")
    assert done.code == 125
    assert "not a TTY" in done.err


def _until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += os.read(fd, 4096)
    return seen


@pytest.mark.parametrize("by", ["exit", "SIGTERM"])
def test_on_a_terminal(cli: Cli, job: str, by: str) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    before = termios.tcgetattr(slave)
    process = cli.begin("exec", "-it", job, "sh", stdin=slave, stdout=slave)
    _until(master, b"# ")  # what is typed before is thrown away with the old mode of the terminal
    os.write(master, b"stty size; tty\n")
    assert b"40 100" in _until(master, b"/dev/pts/0")
    # Said by the child itself, which is in the foreground by then.
    os.write(master, b"sh -c 'echo $((3 * 7)); exec sleep 1000'\n")
    _until(master, b"21\r\n")
    os.write(master, b"\x03")  # reaches the command, not us
    os.write(master, b"echo $((40 + 2))\n")
    _until(master, b"42")
    if by == "exit":
        os.write(master, b"exit 7\n")
        assert process.wait(60) == 7
    else:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
