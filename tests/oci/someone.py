"""An ordinary user for tests: made for the purpose where the tests run as root, else whoever runs them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NUMBERS = count()
TIMEOUT = 120 * float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))


class Someone:
    """Runs commands as that user. `folder` is the user's own, where others may look into."""

    def __init__(self, name: str, folder: Path, become: Sequence[str]) -> None:
        account = pwd.getpwnam(name)
        self.name, self.uid, self.gid = name, account.pw_uid, account.pw_gid
        self.folder = folder
        self._become = list(become)
        self.settings: dict[str, Any] = {}
        """Of the engine oci, beside the runtime."""
        self._pretended: dict[str, str] = {}
        self.environment = {"PATH": PATH, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": _python_path()}
        if not become and "XDG_RUNTIME_DIR" in os.environ:
            self.environment["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]

    def command(self, *argv: str) -> list[str]:
        """What executes that as the user, in the user's `environment`."""
        return [*self._become, *argv]

    def run(self, *argv: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=TIMEOUT,
            cwd=cwd or self.folder,
        )

    def python(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(self._interpreter(), *argv, stdin=stdin)

    def cli(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "dms_executor.cli", "--state-dir", str(self.folder / "state"), *argv)

    def does(self, runtime: str, *steps: tuple[str, Any], policy: dict[str, Any] | None = None) -> list[Any]:
        """The answers of ordinary.py to these steps."""
        return self.does_with("oci", {"runtime": runtime, **self.settings}, *steps, policy=policy)

    def does_with(
        self, engine: str, settings: dict[str, Any], *steps: tuple[str, Any], policy: dict[str, Any] | None = None
    ) -> list[Any]:
        """The same on any engine."""
        told = {"engine": engine, "settings": settings, "steps": steps, "policy": policy, "pretended": self._pretended}
        asked = json.dumps(told)
        done = self.python(str(HERE / "ordinary.py"), str(self.folder / "state"), stdin=asked)
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout)
        return answers

    def pretends(self, **paths: Path) -> None:
        """From now on the package finds those of the host elsewhere; names are below `dms_executor.devices`."""
        self._pretended = {name: str(path) for name, path in paths.items()}

    def opens(self, path: str, major: int, minor: int) -> None:
        """From now on that device node is everybody's for this user: in mount namespaces of the user's own commands."""
        if self.run("sh", "-c", f": <{path} && : >{path}").returncode == 0:
            return
        if os.geteuid() != 0:
            pytest.skip(f"an ordinary user cannot open {path}: chmod 0666 {path}")
        self.has_node(path, major, minor, 0o666)

    def has_node(self, path: str, major: int, minor: int, mode: int) -> None:
        """One of that mode, which is root's, in the place of another."""
        node = self.folder / f"{Path(path).name}-{mode:o}"
        os.mknod(node, stat.S_IFCHR | mode, os.makedev(major, minor))
        node.chmod(mode)
        script = 'mount --bind "$0" "$1" && shift && exec "$@"'
        self._become = ["unshare", "--mount", "sh", "-c", script, str(node), path, *self._become]

    def _interpreter(self) -> str:
        for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
            if self.run("test", "-x", path).returncode == 0 and self.run(path, "-c", "import msgspec").returncode == 0:
                return path
        pytest.skip("no interpreter of this version that an ordinary user may execute")


def _python_path() -> str:
    return os.pathsep.join([str(HERE.parent.parent / "src"), *(path for path in sys.path if path)])


@pytest.fixture(scope="session")
def somebody() -> Iterator[str]:
    """The name of an ordinary user with ranges of ids. Made for this session where we may."""
    if os.geteuid() != 0:
        yield pwd.getpwuid(os.geteuid()).pw_name
        return
    if not all(shutil.which(name) for name in ("useradd", "userdel", "setpriv", "newuidmap")):
        pytest.skip("no useradd, setpriv or newuidmap: apt-get install passwd util-linux uidmap")
    name = f"dms-{os.getpid()}-{next(_NUMBERS)}"  # each folder of tests that asks for one has its own
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    try:
        if f"{name}:" not in Path("/etc/subuid").read_text():  # this one's login.defs makes none
            ranges = f"{300_000_000}-{300_065_535}"
            subprocess.run(["usermod", "--add-subuids", ranges, "--add-subgids", ranges, name], check=True)
        yield name
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture
def someone(somebody: str, tmp_path: Path) -> Iterator[Someone]:
    """That user, with a folder of his own for this test."""
    if os.geteuid() != 0:
        yield Someone(somebody, tmp_path, [])
        return
    become = ["setpriv", "--reuid", somebody, "--regid", somebody, "--init-groups"]
    # pytest's folders are root's alone.
    folder = Path("/tmp", f"{somebody}-{tmp_path.name}"[:60] + os.urandom(3).hex())
    folder.mkdir(mode=0o755)
    user = Someone(somebody, folder, become)
    os.chown(folder, user.uid, user.gid)
    try:
        if user.run("sh", "-c", f"ls {HERE} && cat {HERE}/ordinary.py").returncode != 0:
            pytest.skip(f"an ordinary user cannot read {HERE}")
        yield user
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
