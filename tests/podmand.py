"""A Podman service of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import ClassVar

from .daemon import Daemon, Session

__all__ = ["SESSION", "Podman"]

# Limits above its own cannot be given where it lacks CAP_SYS_RESOURCE, and crun refuses hybrid control groups. A conmon
# would outlive each further command by five minutes, and its container, too.
_CONTAINERS = """
[containers]
default_ulimits = []
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
exit_command_delay = {delay}
[network]
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "{driver}"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


def _missing() -> str:
    if os.geteuid() != 0:
        return "these tests run Podman as root"
    lacking = [program for program in ("podman", "conmon", "runc") if not shutil.which(program)]
    return f"no {' and no '.join(lacking)} here: apt-get install podman conmon runc" if lacking else ""


class Podman(Daemon):
    """`delay`: seconds for which the service can be asked of a further command that has ended."""

    program: ClassVar[str] = "podman"
    delay = 0
    driver = "overlay"

    def command(self) -> list[str]:
        """The service, by the settings that lie in its folder."""
        (self.folder / "containers.conf").write_text(_CONTAINERS.format(delay=self.delay, folder=self.folder))
        (self.folder / "storage.conf").write_text(_STORAGE.format(folder=self.folder, driver=self.driver))
        return self.executed("podman", "system", "service", "--time=0", f"unix://{self.socket}")

    def environment(self) -> dict[str, str]:
        """Where its settings lie."""
        own = {
            "CONTAINERS_CONF": self.folder / "containers.conf",
            "CONTAINERS_STORAGE_CONF": self.folder / "storage.conf",
        }
        return {**os.environ, **{name: str(path) for name, path in own.items()}, "TMPDIR": str(self.folder)}

    def podman(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Podman itself, without the service."""
        command, environment = self.executed("podman", *words), self.environment()
        return subprocess.run(command, check=check, capture_output=True, timeout=60, env=environment, cwd=self.folder)

    def executed(self, *argv: str) -> list[str]:
        """By whom."""
        return list(argv)

    def client(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Podman's client, through the service."""
        return self.podman("--remote", "--url", f"unix://{self.socket}", *words, check=check)

    def clear(self) -> None:
        """No container and no mount of its storage is left; containers would run on without the service."""
        self.podman("rm", "--all", "--force", "--time", "0", check=False)
        self.stop()
        for mounted in (self.folder / "storage" / "overlay", self.folder / "storage"):
            subprocess.run(["umount", "--quiet", str(mounted)], check=False, capture_output=True)


SESSION = Session(Podman, _missing, "localhost/dms-executor-test:latest")
