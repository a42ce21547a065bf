"""A Docker daemon of the tests' own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from .daemon import Daemon, Session

__all__ = ["SESSION", "Dockerd"]

_CONTAINERD_ENDS = 30.0
_BRIDGE = re.compile(r"dms([0-9]+)")


def _missing() -> str:
    if os.geteuid() != 0:
        return "dockerd needs root"
    return "" if shutil.which("dockerd") else "no dockerd here: apt-get install docker.io"


class Dockerd(Daemon):
    """Storage is overlay2, or vfs where the folder's file system takes no overlay."""

    program: ClassVar[str] = "dockerd"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    def command(self) -> list[str]:
        """With all that it has in its folder."""
        command = ["dockerd", "--host", f"unix://{self.socket}", "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        return [*command, *self.options]

    def client(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Docker's own client."""
        command = ["docker", "--host", f"unix://{self.socket}", *words]
        return subprocess.run(command, check=check, capture_output=True, timeout=60)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Without `live-restore` containers end with it."""
        super().stop(signum)
        self._forget_containerd()

    def clear(self) -> None:
        """All of it is pruned."""
        self.client("system", "prune", "--all", "--force", check=False)
        self.stop()

    def _forget_containerd(self) -> None:
        """It dies with the daemon; where nobody reaps it, the next daemon would take its zombie for a living one."""
        note = self.folder / "exec" / "containerd" / "containerd.pid"
        if not note.exists():
            return
        state = Path(f"/proc/{note.read_text().strip()}/stat")
        deadline = time.monotonic() + _CONTAINERD_ENDS
        while _runs(state) and time.monotonic() < deadline:
            time.sleep(0.05)
        note.unlink(missing_ok=True)


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class _Bridged(Dockerd):
    """With a bridge of its own, so that ports can be published: by the daemon's proxy, nobody's firewall touched."""

    def __init__(self, folder: Path) -> None:
        self._bridge = f"dms{os.getpid()}"
        super().__init__(folder, "--bridge", self._bridge, "--iptables=false", "--ip-forward=false")

    def start(self) -> None:
        """Bridges of sessions that were killed go."""
        for name in os.listdir("/sys/class/net"):
            bridge = _BRIDGE.fullmatch(name)
            if bridge is not None and not Path("/proc", bridge[1]).exists():
                _without(name)
        _make_bridge(self._bridge)
        super().start()

    def clear(self) -> None:
        """The bridge, too."""
        super().clear()
        _without(self._bridge)


def _make_bridge(name: str) -> None:
    """Its addresses are of a block for tests of devices (RFC 2544), of which nobody else here has this part."""
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    taken = subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    tried = (f"198.{18 + part // 256}.{part % 256}" for part in range(os.getpid() % 512, 512))
    network = next(each for each in tried if f"{each}.0/24" not in taken)
    subprocess.run(["ip", "address", "add", f"{network}.1/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)


def _without(bridge: str) -> None:
    subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


SESSION = Session(_Bridged, _missing, "dms-executor-test:latest")
