"""A user's own service: it outlives the user's sessions, its jobs outlive it, and all ends with the user's manager."""

from __future__ import annotations

import asyncio
import json
import pwd
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import ROOT, SERVICE, documented, run, until

USER = "guest"
NAME = "dms-test-user.service"
ENDED = "5 exited b'begin\\nend\\n'"


def as_user(*words: str) -> list[str]:
    entry = pwd.getpwnam(USER)
    variables = [f"XDG_RUNTIME_DIR=/run/user/{entry.pw_uid}", f"HOME={entry.pw_dir}", f"PYTHONPATH={ROOT}"]
    return ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "env", *variables, *words]


async def systemctl(*words: str, check: bool = True) -> str:
    return await run(*as_user("systemctl", "--user", *words), check=check)


@pytest.fixture
async def home(rootfs: Path) -> AsyncIterator[Path]:
    """The unit that docs/operations.md shows for users, installed for USER."""
    engines = await run(*as_user(sys.executable, "-m", "dms_executor.cli", "--json", "engines"))
    oci = next(told for told in map(json.loads, engines.splitlines()) if told["engine"] == "oci")
    if not oci["usable"]:
        pytest.skip(f"oci for an ordinary user: {oci['problem']}")
    home = Path(pwd.getpwnam(USER).pw_dir)
    work = home / "work"
    shutil.copytree(rootfs, work / "rootfs", symlinks=True)
    (work / "gate").mkdir()
    words = [sys.executable, str(SERVICE), str(work / "state"), str(work / "rootfs"), "crun", str(work / "gate")]
    text = re.sub(r"ExecStart=.*", f"ExecStart={' '.join(words)}", documented("user"))
    text = re.sub(r"Type=.*", f"Type=notify\nEnvironment=PYTHONPATH={ROOT}", text)
    units = home / ".config" / "systemd" / "user"
    units.mkdir(parents=True, exist_ok=True)
    (units / NAME).write_text(text)
    await run("chown", "-R", f"{USER}:{USER}", str(work), str(home / ".config"))
    await systemctl("daemon-reload")
    yield work
    await run("loginctl", "enable-linger", USER)
    await run("systemctl", "start", f"user@{pwd.getpwnam(USER).pw_uid}.service")
    await systemctl("stop", NAME, check=False)
    print(await run("journalctl", "-b", "--no-pager", "_SYSTEMD_USER_UNIT=" + NAME, check=False))
    command = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(work / "state"), "cleanup", "--running"]
    await run(*as_user("systemd-run", "--user", "--scope", "--quiet", *command), check=False)
    shutil.rmtree(work)


async def told(file: Path) -> str:
    """What the service writes, once the whole line is there."""
    async with asyncio.timeout(60):
        while not file.exists() or not (text := file.read_text()).endswith("\n"):
            await asyncio.sleep(0.05)
    return text.strip()


async def shims() -> list[str]:
    """Pids of USER's shims that have a job."""
    return (await run("pgrep", "-u", USER, "-f", "dms-shim run", check=False)).split()


async def test_restart_kill_and_logout_leave_the_jobs_running(home: Path) -> None:
    await systemctl("start", NAME)
    await systemctl("restart", NAME)
    await systemctl("kill", "--kill-whom=all", "--signal=KILL", NAME)
    await until("active", *as_user("systemctl", "--user", "is-active", NAME))
    # A login and a logout: the session goes, the manager stays, as the user lingers.
    assert await run("su", "--login", USER, "--command", "echo there") == "there"
    assert await systemctl("is-active", NAME) == "active"
    await asyncio.to_thread((home / "gate" / "open").touch)
    assert await told(home / "gate" / "result") == ENDED


async def test_without_linger_all_ends_with_the_last_logout(home: Path) -> None:
    await systemctl("start", NAME)
    manager = f"user@{pwd.getpwnam(USER).pw_uid}.service"
    await run("loginctl", "disable-linger", USER)
    await until("inactive", "systemctl", "is-active", manager)
    assert await shims() == []
    await run("loginctl", "enable-linger", USER)
    await until("active", "systemctl", "is-active", manager)
    # The next start tells the truth: its job went with the manager, by whose TERM or with whose shim.
    await systemctl("start", NAME)
    result = await told(home / "gate" / "result")
    assert result.startswith(("None engine_lost", "143 signaled")), result
