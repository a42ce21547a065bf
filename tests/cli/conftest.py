"""The real command line as a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dms_executor

LIMIT = 60.0
_COMMANDS = ("sh", "echo", "sleep", "cat", "true", "false", "env", "yes", "touch", "stty", "tty", "vi", "top")


class Finished(NamedTuple):
    code: int
    out: bytes
    err: str


class Cli:
    """Starts `dms-executor` with a state folder of the test's own, and ends what the test leaves running."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._begun: list[subprocess.Popen[bytes]] = []

    def __call__(self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Finished:
        process = self.begin(*arguments, stdin=subprocess.PIPE, env=env)
        out, err = process.communicate(stdin, timeout=LIMIT)
        assert b"Traceback" not in err, err.decode()
        return Finished(process.returncode, out, err.decode())

    def begin(
        self,
        *arguments: str,
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        env: dict[str, str] | None = None,
        nohup: bool = False,
        controls: bool = False,
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dms_executor.cli", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self.environment() | (env or {}),
            preexec_fn=_ignore_hangup if nohup else _lead if controls else _heed_signals,
            start_new_session=True,
        )
        self._begun.append(process)
        return process

    def environment(self) -> dict[str, str]:
        source = str(Path(dms_executor.__file__).parents[1])
        ours = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
        return {**ours, "DMS_EXECUTOR_STATE_DIR": str(self.state_dir), "PYTHONPATH": source}

    def memory(self, *steps: str, options: tuple[str, ...] = ()) -> Finished:
        return self("run", *options, "--engine", "memory", *steps)

    def status(self, execution_id: str) -> str:
        return str(json.loads(self("--json", "inspect", execution_id).out)["status"])

    def close(self) -> None:
        for process in self._begun:
            if process.poll() is None:
                process.kill()
            if process.stdin is not None and process.stdin.closed:
                process.stdin = None  # else communicate() would flush it
            process.communicate(timeout=LIMIT)


def _heed_signals() -> None:
    # A test runner in the background of a shell ignores SIGINT, and its children would, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _lead() -> None:
    """Stdin is the controlling terminal, which tells of changes of its size by a signal."""
    _heed_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def line_of(stream: Any, holding: str) -> str:
    """The first line of a process's output that holds this; the end of its output fails the test."""
    seen = []
    for raw in iter(stream.readline, b""):
        seen.append(raw.decode())
        if holding in seen[-1]:
            return seen[-1]
    pytest.fail(f"no line holds {holding!r}: {''.join(seen)}")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    tool = Cli(tmp_path / "state")
    yield tool
    tool.close()


@pytest.fixture
def root(cli: Cli, tmp_path: Path) -> Iterator[str]:
    """A root of busybox as IMAGE, where the oci engine is usable; what the test leaves running is cancelled."""
    busybox = shutil.which("busybox")
    probes = [json.loads(line) for line in cli("--json", "engines").out.splitlines()]
    if busybox is None or not any(probe["engine"] == "oci" and probe["usable"] for probe in probes):
        pytest.skip("the oci engine is not usable here, or there is no busybox")
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "etc").mkdir()
    shutil.copy(busybox, folder / "bin/busybox")
    for name in _COMMANDS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/data").write_text("no program\n")
    yield f"rootfs:{folder}"
    alive = cli("ps", "-q").out.decode().split()
    if alive:
        cli("rm", "-f", *alive)
