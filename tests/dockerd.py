"""A Docker daemon of the tests' own: its socket, its data and its end are theirs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["IMAGE", "Dockerd", "end_session", "missing", "running", "session", "session_image", "slow_image"]

IMAGE = "dms-executor-test:latest"
_UP, _DOWN = 60.0, 30.0
_SHM, _ROOM = Path("/dev/shm"), 2 << 30


def missing() -> str:
    """Why no daemon can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    return "" if shutil.which("dockerd") else "no dockerd here: apt-get install docker.io"


class Dockerd:
    """`folder` holds all that it has. Storage is overlay2, or vfs where the folder's file system takes no overlay."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, socket_path: str) -> Dockerd:
        """One that somebody else started, for its client."""
        return cls(Path(socket_path).parent)

    def start(self) -> None:
        """Returns once it answers."""
        with (self.folder / "dockerd.log").open("ab") as log:
            command = ["dockerd", "--host", f"unix://{self.socket}", "--data-root", str(self.folder / "data")]
            command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
            self._process = subprocess.Popen(
                [*command, *self.options], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + _UP
        while self.docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not come up: {self.said()}")
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
        self._forget_containerd()

    def _forget_containerd(self) -> None:
        """It dies with the daemon; where nobody reaps it, the next daemon would take its zombie for a living one."""
        note = self.folder / "exec" / "containerd" / "containerd.pid"
        if not note.exists():
            return
        state = Path(f"/proc/{note.read_text().strip()}/stat")
        deadline = time.monotonic() + _DOWN
        while _runs(state) and time.monotonic() < deadline:
            time.sleep(0.05)
        note.unlink(missing_ok=True)

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Docker's own client."""
        command = ["docker", "--host", f"unix://{self.socket}", *words]
        return subprocess.run(command, check=check, capture_output=True, timeout=60)

    def take(self, rootfs: Path, name: str = IMAGE) -> None:
        """Makes an image of a root tree."""
        archive = self.folder / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(rootfs, arcname=".")
        self.docker("import", str(archive), name)
        archive.unlink()

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "dockerd.log").read_text(errors="replace")[-2000:]


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Dockerd]:
    """One that is up, and is gone afterwards with its containers and its mounts."""
    daemon = Dockerd(folder, *options)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.docker("system", "prune", "--all", "--force", check=False)
        daemon.stop()


class _Session:
    """One daemon for all tests of a session, started when the first of them needs it."""

    daemon: Dockerd | None = None
    bridge: str = ""
    image: str = ""
    silent: socket.socket | None = None


def session() -> Dockerd:
    """The session's daemon."""
    if _Session.daemon is None:
        # In memory, where there is some: half of what a container takes is a wait for the disk.
        memory = _SHM.is_dir() and shutil.disk_usage(_SHM).free > _ROOM
        folder = Path(tempfile.mkdtemp(prefix="dockerd-", dir=_SHM if memory else None))
        # A bridge of its own, so that ports can be published: by the daemon's proxy, with nobody's firewall touched.
        _Session.bridge = _made_bridge()
        daemon = Dockerd(folder, "--bridge", _Session.bridge, "--iptables=false", "--ip-forward=false")
        _Session.daemon = daemon
        daemon.start()
    return _Session.daemon


def _made_bridge() -> str:
    """Its addresses are of a block for tests of devices (RFC 2544), of which nobody else here has this part."""
    name = f"dms{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    taken = subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    tried = (f"198.{18 + part // 256}.{part % 256}" for part in range(os.getpid() % 512, 512))
    network = next(each for each in tried if f"{each}.0/24" not in taken)
    subprocess.run(["ip", "address", "add", f"{network}.1/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return name


def session_image(rootfs: Path) -> str:
    """The session's root tree as an image of its daemon."""
    if not _Session.image:
        session().take(rootfs)
        _Session.image = IMAGE
    return _Session.image


def slow_image() -> str:
    """An image whose registry takes connections, and never answers."""
    if _Session.silent is None:
        _Session.silent = socket.create_server(("127.0.0.1", 0), backlog=64)
    return f"127.0.0.1:{_Session.silent.getsockname()[1]}/slow:latest"


def end_session() -> None:
    """Ends the session's daemon, if there is one."""
    daemon, _Session.daemon = _Session.daemon, None
    if _Session.silent is not None:
        _Session.silent.close()
    if daemon is not None:
        daemon.docker("network", "prune", "--force", check=False)
        daemon.stop()
        shutil.rmtree(daemon.folder, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", _Session.bridge], check=False, capture_output=True)
