"""Programs that draw a whole screen, on a terminal that is one: tmux keeps it, and tells what its user would see."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import LIMIT, Cli


class Screen:
    """A shell in a window of tmux, 80 columns and 24 rows, under a server of its own."""

    def __init__(self, socket: Path, cli: Cli) -> None:
        self._base = ["tmux", "-S", str(socket), "-f", os.devnull]
        self._environment = cli.environment()
        self._folder = socket.parent
        self._count = 0
        self._call("new-session", "-d", "-x", "80", "-y", "24", "env PS1='$ ' sh")
        self.until("$")

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._base, *arguments], env=self._environment, capture_output=True, text=True, timeout=LIMIT, check=True
        )
        return done.stdout

    def run(self, *arguments: str) -> None:
        """The command line, called in the shell, which then says its exit code: code=0."""
        self.type(shlex.join([sys.executable, "-m", "dms_executor.cli", *arguments]) + "; echo code=$?")
        self.press("Enter")

    def type(self, text: str) -> None:
        self._call("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self._call("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._call("resize-window", "-x", str(columns), "-y", str(rows))

    def shown(self) -> list[str]:
        """The lines of the screen."""
        return [line.rstrip() for line in self._call("capture-pane", "-p").splitlines()]

    def until(self, text: str) -> list[str]:
        """The screen, once `text` is on it."""
        deadline = time.monotonic() + LIMIT
        while True:
            lines = self.shown()
            if any(text in line for line in lines):
                return lines
            assert time.monotonic() < deadline, "\n".join([f"{text!r} is not shown:", *lines])
            time.sleep(0.05)  # nobody tells of a change of the screen

    def modes(self) -> str:
        """What `stty -g` says of the terminal, on which only the shell is."""
        self._count += 1
        file = self._folder / f"modes-{self._count}"
        self.type(f"clear; stty -g >{file}; echo saved-$(({self._count}))")
        self.press("Enter")
        self.until(f"saved-{self._count}")
        return file.read_text()

    def close(self) -> None:
        subprocess.run([*self._base, "kill-server"], capture_output=True, timeout=LIMIT, check=False)


@pytest.fixture
def screen(cli: Cli, tmp_path: Path) -> Iterator[Screen]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux here: apt-get install tmux")
    made = Screen(tmp_path / "tmux", cli)
    yield made
    made.close()


def test_vi_writes_a_file(cli: Cli, root: str, screen: Screen) -> None:
    before = screen.modes()
    screen.run("run", "-it", "--id", "e1", root, "sh", "-c", "echo old >/file; vi /file; cat /file; exit 6")
    lines = screen.until("/file 1/1")
    assert lines[0] == "old"
    assert lines[1] == "~"
    screen.type("Onew line")
    screen.press("Escape")
    # Until vi says so it takes what follows for the rest of the sequence that an Escape begins.
    assert screen.until("- /file [Modified]")[:2] == ["new line", "old"]
    screen.resize(60, 12)
    screen.type(":wq")
    screen.press("Enter")
    screen.until("code=6")
    assert screen.modes() == before
    assert cli("wait", "e1").out == b"6\n"
    assert cli("logs", "e1").out.endswith(b"new line\r\nold\r\n")


def test_top_draws_and_is_quit(cli: Cli, root: str, screen: Screen) -> None:
    before = screen.modes()
    assert cli("run", "-d", "--id", "e1", root, "sleep", "1000").code == 0
    screen.run("exec", "-it", "e1", "top")
    lines = screen.until("sleep 1000")
    assert any("PID" in line and "COMMAND" in line for line in lines)
    screen.press("q")
    screen.until("code=0")
    assert screen.modes() == before


def test_a_screen_is_drawn_anew_for_who_comes_back(cli: Cli, root: str, screen: Screen) -> None:
    before = screen.modes()
    screen.run("run", "-it", "--id", "e1", root, "sh", "-c", "echo text >/file; exec vi /file")
    screen.until("/file 1/1")
    screen.press("C-p", "C-q")
    screen.until("left execution e1")
    screen.until("code=0")
    assert screen.modes() == before
    screen.run("attach", "e1")
    lines = screen.until("/file 1/1")
    assert lines[:2] == ["text", "~"]
    screen.type(":q")
    screen.press("Enter")
    screen.until("code=0")
    assert screen.modes() == before
    assert cli("wait", "e1").out == b"0\n"
