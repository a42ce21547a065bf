"""A terminal of the test's own, and the command line on it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from types import TracebackType
from typing import Any, Self

from .conftest import LIMIT, Cli


class Terminal:
    """A pseudo-terminal whose keys are typed by the test."""

    def __init__(self, columns: int = 100, rows: int = 40) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

    def run(self, cli: Cli, *arguments: str) -> subprocess.Popen[bytes]:
        """Begins a command whose stdin and stdout are this terminal."""
        return cli.begin(*arguments, stdin=self.slave, stdout=self.slave, controls=True)

    def type(self, keys: bytes) -> None:
        """As if by its user. Only once what they are for is there: see `until`."""
        os.write(self.master, keys)

    def until(self, text: bytes) -> bytes:
        """What is shown, up to `text`, which was not shown before."""
        deadline = time.monotonic() + LIMIT
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown: {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def resize(self, columns: int, rows: int) -> None:
        """Of the window."""
        termios.tcsetwinsize(self.slave, (rows, columns))

    @property
    def restored(self) -> bool:
        """Whether its modes are what they were."""
        found: list[Any] = termios.tcgetattr(self.slave)
        return found == self.before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.master)
        os.close(self.slave)
