"""Units of systemd with the service of the tests, made from the unit that docs/operations.md shows."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCOPE = Path("/sys/fs/cgroup/system.slice/dms-executor.scope")
SERVICE = Path(__file__).with_name("service.py")


@pytest.fixture(scope="session", autouse=True)
def systemd() -> None:
    """These tests change the system's units: only in a host of our own."""
    if not Path("/run/systemd/system").is_dir() or not Path("/out/command").exists():
        pytest.skip("needs systemd, in a host that is thrown away: scripts/host --systemd pytest tests/services")


async def run(*words: str, check: bool = True) -> str:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0 or not check, f"{words}: {said}"
    return said.strip()


async def until(what: str, *words: str) -> None:
    """Polls what systemd says of a unit: it has no event that a test could wait for without a bus of its own."""
    async with asyncio.timeout(30):
        while await run(*words, check=False) != what:
            await asyncio.sleep(0.05)


def documented(kind: str) -> str:
    """The unit that docs/operations.md shows under `kind` ("system" or "user")."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(rf"```ini\n# ({kind}.*?)```", text, re.DOTALL)
    assert found, f"docs/operations.md shows no {kind} unit"
    return f"# {found[1]}"


class Service:
    """One unit of the system's manager, and the folders of its service."""

    def __init__(self, folder: Path, rootfs: Path, runtime: str) -> None:
        self.name = f"dms-test-{os.getpid()}-{folder.name.strip('_')[-12:]}.service"
        self.rootfs = rootfs
        self.runtime = runtime
        self.state = folder / "state"
        self.gate = folder / "gate"
        self.gate.mkdir()
        self.unit = Path("/etc/systemd/system", self.name)

    async def install(self, *lines: str) -> None:
        """The documented unit, with our command, a word when it is ready, and `lines` more."""
        words = [sys.executable, str(SERVICE), str(self.state), str(self.rootfs), self.runtime, str(self.gate)]
        text = documented("system")
        text = re.sub(r"ExecStart=.*", f"ExecStart={' '.join(words)}", text)
        text = re.sub(r"Type=.*", "Type=notify", text)
        text = re.sub(r"Environment=.*|StateDirectory=.*|User=.*", "", text)
        more = "\n".join([f"Environment=PYTHONPATH={ROOT}", *lines])
        text = text.replace("[Service]\n", f"[Service]\n{more}\n")
        await asyncio.to_thread(self.unit.write_text, text)
        await run("systemctl", "daemon-reload")

    async def pid(self) -> int:
        return int(await run("systemctl", "show", "--value", "-p", "MainPID", self.name))

    def group(self) -> Path:
        return Path("/sys/fs/cgroup/system.slice", self.name)

    def shims(self) -> set[int]:
        """The shims of this state folder's jobs that are out of the service, by the folder that they have open."""
        # What a path looks like from outside a service's own mounts is not the service's: only its end is the same.
        folders = tuple(f"/executions/{token}" for token in os.listdir(self.state / "executions"))
        found = set()
        for pid in (SCOPE / "shims" / "cgroup.procs").read_text().split():
            try:
                links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue
            if any(link.endswith(folders) for link in links):
                found.add(int(pid))
        return found

    async def result(self) -> str:
        """Lets the job end; how the service says it ended."""
        await asyncio.to_thread((self.gate / "open").touch)
        async with asyncio.timeout(30):
            while not (self.gate / "result").exists() or not (self.gate / "result").read_text().endswith("\n"):
                await asyncio.sleep(0.02)
        return (self.gate / "result").read_text().strip()


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0 or shutil.which(request.param) is None:
        pytest.skip(f"needs root and {request.param}")
    return str(request.param)


@pytest.fixture
async def service(tmp_path: Path, rootfs: Path, runtime: str) -> AsyncIterator[Service]:
    made = Service(tmp_path, rootfs, runtime)
    yield made
    await run("systemctl", "stop", made.name, check=False)
    print(await run("journalctl", "-b", "--no-pager", "-u", made.name, "-u", "dms-executor.scope", check=False))
    made.unit.unlink(missing_ok=True)
    await run("systemctl", "daemon-reload")
