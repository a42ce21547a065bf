"""A Podman service of an ordinary user's, found as Podman's own client finds it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import running
from tests.podmand import SESSION, Podman

from ..oci.someone import Someone, somebody, someone
from ..supervisor.conftest import descendants

__all__ = ["somebody", "someone"]

_OF_GROUPS = {"memory", "pids", "cpu", "pause", "stats", "oom_detection"}


class _Own(Podman):
    """That user's. Its socket is where the user's clients look."""

    driver = "vfs"

    def __init__(self, user: Someone) -> None:
        super().__init__(user.folder)
        self._user = user
        self.socket = self.folder / "run" / "podman" / "podman.sock"
        for folder in (self.folder / "run", self.socket.parent):
            folder.mkdir(mode=0o700)
            os.chown(folder, user.uid, user.gid)
        user.environment["XDG_RUNTIME_DIR"] = str(self.folder / "run")

    def environment(self) -> dict[str, str]:
        """The user's, and where the settings lie."""
        names = ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")
        return {**self._user.environment, **{name: super(_Own, self).environment()[name] for name in names}}

    def executed(self, *argv: str) -> list[str]:
        """By the user."""
        return self._user.command(*argv)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """The service is a child of what was started, in the user's namespaces, and may outlive that."""
        handles = [os.pidfd_open(pid) for pid in descendants(self._process.pid)] if self._process is not None else []
        super().stop(signum)
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [])
            os.close(handle)

    def clear(self) -> None:
        """Files of the user's further ids go, and then the process that holds the user's namespaces."""
        super().clear()
        self.podman("unshare", "rm", "-rf", str(self.folder / "storage"), check=False)
        self.podman("system", "migrate", check=False)


@pytest.fixture
def service(someone: Someone, rootfs: Path) -> Iterator[_Own]:
    if os.geteuid() == 0:
        SESSION.needed()
    someone.opens("/dev/net/tun", 10, 200)
    with running(_Own(someone)) as ready:
        if os.geteuid() == 0:
            subprocess.run(["chmod", "-R", "a+rX", str(rootfs)], check=True)
        ready.take(rootfs, SESSION.image)
        yield ready


def _request(name: str, script: str, params: dict[str, Any] | None = None, **fields: Any) -> tuple[str, Any]:
    spec = {"type": "podman", "params": {"image": SESSION.image, "cmd": ["sh", "-c", script], **(params or {})}}
    return "run", {"job_id": "j", "execution_id": name, "engine_spec": spec, **fields}


def test_an_ordinary_users_service(someone: Someone, service: _Own) -> None:
    output = someone.folder / "out"
    output.mkdir()
    os.chown(output, someone.uid, someone.gid)
    long = _request("long", "trap 'exit 5' TERM; echo up; sleep 1000 & wait", secret_environment={"SECRET": "x"})
    answers = someone.does_with(
        "podman",
        {},
        ("probe", "podman"),
        _request("user", "id -u; echo made >/out/file; exit 3", outputs=[{"source": str(output), "target": "/out"}]),
        _request("other", "id -u; cat; cat /proc/self/uid_map", params={"user": "guest"}, stdin="aW4K"),
        _request("port", "ip -o link", network="slirp4netns", ports=[{"container_port": 80}]),
        ("start", long[1]),
        ("said", ("long", "up")),
        ("exec", ("long", ["sh", "-c", 'echo "${SECRET-none}"; exit 4'])),
        ("stats", "long"),
        ("pause", "long"),
        ("resume", "long"),
        ("cancel", "long"),
        ("wait", "long"),
        _request("held", "true", resources={"memory": "64MiB"}),
    )
    probe, user, other, port, _, said, execed, stats, paused, _, _, ended, held = answers
    assert probe["usable"], probe
    assert (user["exit_code"], user["stdout"]) == (3, "0\n"), user
    assert ((output / "file").read_text(), (output / "file").stat().st_uid) == ("made\n", someone.uid)
    words = other["stdout"].split()
    assert words[:4] == ["1000", "in", "0", str(someone.uid)], other
    assert (port["exit_code"], "lo:" in port["stdout"], len(port["stdout"].splitlines())) == (0, True, 2), port
    assert (said, execed["exit_code"], execed["stdout"]) == (None, 4, "none\n")
    assert (ended["status"], ended["exit_code"]) == ("cancelled", 5)
    assert service.containers() == []
    if "cgroups v1" in probe["version"]:
        assert not _OF_GROUPS & set(probe["capabilities"]), "no user is given control groups of version 1"
        assert {each["error"] for each in (held, stats, paused)} == {"NotSupported"}, (held, stats, paused)
