"""A daemon of the tests' own: its socket, its data and its end are theirs. `dockerd` and `podmand` are two."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import pytest

__all__ = ["Daemon", "Session", "running"]

_UP, _DOWN = 60.0, 30.0
_SHM, _ROOM = Path("/dev/shm"), 2 << 30


class Daemon:
    """`folder` holds all that it has."""

    program: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / f"{self.program}.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, socket_path: str) -> Self:
        """One that somebody else started, for its client."""
        return cls(Path(socket_path).parent)

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def client(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Its own client."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """In which it runs."""
        return dict(os.environ)

    def start(self) -> None:
        """Returns once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment()
            )
        deadline = time.monotonic() + _UP
        while self.client("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.program} did not come up: {self.said()}")
            time.sleep(0.1)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ends it; returns once it is gone."""
        if self._process is None:
            return
        self._process.send_signal(signum)
        try:
            self._process.wait(_DOWN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def clear(self) -> None:
        """Ends it, with its containers and its mounts."""
        raise NotImplementedError

    def take(self, rootfs: Path, name: str) -> None:
        """Makes an image of a root tree."""
        archive = self.folder / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(rootfs, arcname=".")
        self.client("import", str(archive), name)
        archive.unlink()

    def containers(self) -> list[str]:
        """The names of all that it has."""
        return self.client("ps", "--all", "--format", "{{.Names}}").stdout.decode().split()

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.program}.log"


D = TypeVar("D", bound=Daemon)


@contextmanager
def running(daemon: D) -> Iterator[D]:
    """One that is up, and is gone afterwards with its containers and its mounts."""
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.clear()


class Session(Generic[D]):
    """One daemon for all tests of a session, started when the first of them needs it.

    `missing` says why none can be started here, and is empty where one can; `image` is what the session's root tree is
    called there.
    """

    def __init__(self, make: type[D], missing: Callable[[], str], image: str) -> None:
        self.missing = missing
        self.image = image
        self._make = make
        self._daemon: D | None = None
        self._has_image = False

    def needed(self) -> None:
        """Skips the test where none can be started; fails it where DMS_EXECUTOR_REQUIRE names what is not installed."""
        if not (problem := self.missing()):
            return
        wanted = filter(None, os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(","))
        if os.geteuid() == 0 and any(self._make.program.startswith(word) for word in wanted):
            pytest.fail(f"{self._make.program} is required: {problem}")
        pytest.skip(problem)

    def daemon(self) -> D:
        """Up and running."""
        if self._daemon is None:
            # In memory, where there is some: half of what a container takes is a wait for the disk.
            memory = _SHM.is_dir() and shutil.disk_usage(_SHM).free > _ROOM
            folder = tempfile.mkdtemp(prefix=f"{self._make.program}-", dir=_SHM if memory else None)
            self._daemon = self._make(Path(folder))
            self._daemon.start()
        return self._daemon

    def with_image(self, rootfs: Path) -> str:
        """The session's root tree as an image of its daemon."""
        if not self._has_image:
            self.daemon().take(rootfs, self.image)
            self._has_image = True
        return self.image

    def end(self) -> None:
        """Ends the session's daemon, if there is one."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.clear()
            shutil.rmtree(daemon.folder, ignore_errors=True)
