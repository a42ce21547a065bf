"""A Podman service of the tests' own: its socket, its storage and its end are theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["IMAGE", "Podman", "end_session", "missing", "running", "session", "session_image"]

IMAGE = "localhost/dms-executor-test:latest"
_UP, _DOWN = 60.0, 30.0
_SHM, _ROOM = Path("/dev/shm"), 2 << 30

# Limits above its own cannot be given where it lacks CAP_SYS_RESOURCE, and crun refuses hybrid control groups.
_CONTAINERS = """
[containers]
default_ulimits = []
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


def missing() -> str:
    """Why no service can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "these tests run Podman as root"
    lacking = [program for program in ("podman", "conmon", "runc") if not shutil.which(program)]
    return f"no {' and no '.join(lacking)} here: apt-get install podman conmon runc" if lacking else ""


class Podman:
    """`folder` holds all that it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "podman.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, socket_path: str) -> Podman:
        """One that somebody else started, for its client."""
        return cls(Path(socket_path).parent)

    @property
    def _environment(self) -> dict[str, str]:
        own = {
            "CONTAINERS_CONF": self.folder / "containers.conf",
            "CONTAINERS_STORAGE_CONF": self.folder / "storage.conf",
        }
        return {**os.environ, **{name: str(path) for name, path in own.items()}, "TMPDIR": str(self.folder)}

    def start(self) -> None:
        """Returns once it answers."""
        (self.folder / "containers.conf").write_text(_CONTAINERS)
        (self.folder / "storage.conf").write_text(_STORAGE.format(folder=self.folder))
        with (self.folder / "podman.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{self.socket}"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        deadline = time.monotonic() + _UP
        while self.remote("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"podman did not come up: {self.said()}")
            time.sleep(0.1)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ends the service; returns once it is gone. Containers run on."""
        if self._process is None:
            return
        self._process.send_signal(signum)
        try:
            self._process.wait(_DOWN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def podman(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Podman itself, without the service."""
        return subprocess.run(["podman", *words], check=check, capture_output=True, timeout=60, env=self._environment)

    def remote(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Podman's client, through the service."""
        return self.podman("--remote", "--url", f"unix://{self.socket}", *words, check=check)

    def take(self, rootfs: Path, name: str = IMAGE) -> None:
        """Makes an image of a root tree."""
        archive = self.folder / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(rootfs, arcname=".")
        self.podman("import", str(archive), name)
        archive.unlink()

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "podman.log").read_text(errors="replace")[-2000:]

    def clear(self) -> None:
        """No container and no mount of its storage is left."""
        self.podman("rm", "--all", "--force", "--time", "0", check=False)
        self.stop()
        for mounted in (self.folder / "storage" / "overlay", self.folder / "storage"):
            subprocess.run(["umount", "--quiet", str(mounted)], check=False, capture_output=True)


@contextmanager
def running(folder: Path) -> Iterator[Podman]:
    """One that is up, and is gone afterwards with its containers and its mounts."""
    service = Podman(folder)
    service.start()
    try:
        yield service
    finally:
        service.clear()


class _Session:
    """One service for all tests of a session, started when the first of them needs it."""

    service: Podman | None = None
    image: str = ""


def session() -> Podman:
    """The session's service."""
    if _Session.service is None:
        memory = _SHM.is_dir() and shutil.disk_usage(_SHM).free > _ROOM
        service = Podman(Path(tempfile.mkdtemp(prefix="podman-", dir=_SHM if memory else None)))
        _Session.service = service
        service.start()
    return _Session.service


def session_image(rootfs: Path) -> str:
    """The session's root tree as an image of its service."""
    if not _Session.image:
        session().take(rootfs)
        _Session.image = IMAGE
    return _Session.image


def end_session() -> None:
    """Ends the session's service, if there is one."""
    service, _Session.service = _Session.service, None
    if service is not None:
        service.clear()
        shutil.rmtree(service.folder, ignore_errors=True)
