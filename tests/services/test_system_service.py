"""A service of systemd that starts jobs: its restart, its kill and its stop leave them running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionStatus, Executor, Policy, Settings

from .conftest import SCOPE, Service, run, until
from .service import SCRIPT, request

ENDED = "5 exited b'begin\\nend\\n'"


def settings(service: Service) -> Settings:
    return Settings(engines={"oci": {"runtime": service.runtime}})


@pytest.mark.parametrize("lines", [(), ("Delegate=yes",), ("PrivateTmp=yes", "ProtectSystem=strict")], ids=str)
async def test_restart_and_kill_leave_the_jobs_running_and_adopt_them(
    service: Service, lines: tuple[str, ...], tmp_path: Path
) -> None:
    if "ProtectSystem=strict" in lines:
        lines = (*lines, f"ReadWritePaths={tmp_path} /run", "PrivateTmp=no")
    await service.install(*lines)
    await run("systemctl", "start", service.name)
    first, shims = await service.pid(), service.shims()
    assert len(shims) == 1
    await run("systemctl", "restart", service.name)
    second = await service.pid()
    assert (second != first, service.shims()) == (True, shims)
    # The whole cgroup, as the kernel's OOM killer or an impatient owner does it; Restart= brings the service back.
    await run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", service.name)
    await until("1", "systemctl", "show", "--value", "-p", "NRestarts", service.name)
    await until("active", "systemctl", "is-active", service.name)
    assert service.shims() == shims
    assert await service.result() == ENDED


async def test_a_stopped_service_leaves_nothing_but_its_jobs(service: Service) -> None:
    await service.install()
    await run("systemctl", "start", service.name)
    await run("systemctl", "stop", service.name)
    assert not service.group().exists(), "something of ours is still in the service's cgroup"
    async with Executor.open(service.state, policy=Policy.trusted(), settings=settings(service)) as executor:
        assert await executor.get_status("job") is ExecutionStatus.RUNNING
        (service.gate / "open").touch()
        result = await asyncio.wait_for(executor.wait("job"), 30)
    assert (result.exit_code, result.stdout) == (5, b"begin\nend\n")


async def test_jobs_live_in_a_delegated_scope_and_nowhere_else(service: Service) -> None:
    slice_before = Path("/sys/fs/cgroup/system.slice/cgroup.subtree_control").read_text()
    await service.install()
    await run("systemctl", "start", service.name)
    shown = await run("systemctl", "show", "-p", "Delegate", "-p", "ActiveState", "-p", "Slice", "dms-executor.scope")
    assert set(shown.split()) == {"Delegate=yes", "ActiveState=active", "Slice=system.slice"}
    assert not Path("/sys/fs/cgroup/dms-executor").exists()
    async with Executor.open(service.state, policy=Policy.trusted(), settings=settings(service)) as executor:
        token = (await executor.inspect("job")).engine_ids["container"]
        group = SCOPE / token
        assert (group / "memory.max").read_text().strip() == str(64 << 20)
        # What systemd does of itself now and then takes nothing of the job's away.
        await run("systemctl", "daemon-reload")
        await run("systemctl", "daemon-reexec")
        await until("running", "systemctl", "show", "--value", "-p", "SubState", service.name)
        assert (group / "memory.max").read_text().strip() == str(64 << 20)
        assert (await executor.stats("job")).pids
        await executor.cancel("job", grace=0)
    assert not group.exists()
    after = Path("/sys/fs/cgroup/system.slice/cgroup.subtree_control").read_text()
    assert set(slice_before.split()) <= set(after.split())


async def test_a_scope_that_somebody_stopped_is_made_again(service: Service) -> None:
    options = {"policy": Policy.trusted(), "settings": settings(service)}
    async with Executor.open(service.state, **options) as executor:
        await executor.start(request(str(service.rootfs), service.gate, "lost"))
        await run("systemctl", "stop", "dms-executor.scope")
        result = await asyncio.wait_for(executor.wait("lost"), 30)
        assert result.status is ExecutionStatus.FAILED
        await executor.start(request(str(service.rootfs), service.gate, "next"))
        assert await run("systemctl", "is-active", "dms-executor.scope") == "active"
        (service.gate / "open").touch()
        assert (await asyncio.wait_for(executor.wait("next"), 30)).exit_code == 5


async def test_commands_that_systemd_runs(service: Service) -> None:
    """`systemd-run` with a command that ends: its job goes on, another command sees it through or ends it."""
    command = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(service.state)]
    for name, script in (("waited", SCRIPT), ("cleaned", "sleep 1000")):
        job = ["-v", f"{service.gate}:/gate", f"rootfs:{service.rootfs}", "sh", "-c", script]
        words = [*command, "run", "-d", "--id", name, *job]
        await run("systemd-run", "--wait", "--quiet", "--collect", *words)
    assert await run(*command, "ps", "-q") == "cleaned\nwaited"
    (service.gate / "open").touch()
    assert await run(*command, "wait", "waited") == "5"
    await run(*command, "cleanup", "--running")
    assert await run(*command, "ps", "-q") == ""


async def test_the_sleeper_is_all_that_stays(service: Service) -> None:
    options = {"policy": Policy.trusted(), "settings": settings(service)}
    (service.gate / "open").touch()
    async with Executor.open(service.state, **options) as executor:
        assert (await executor.run(request(str(service.rootfs), service.gate))).exit_code == 5
    async with asyncio.timeout(30):
        while len(pids := (SCOPE / "shims" / "cgroup.procs").read_text().split()) > 1:
            await asyncio.sleep(0.02)
    assert Path(f"/proc/{pids[0]}/comm").read_text().strip() == "sleep"
    # It is the scope's only hold: without it the scope ends, and the next job makes another.
    os.kill(int(pids[0]), signal.SIGKILL)
    await until("inactive", "systemctl", "is-active", "dms-executor.scope")
    async with Executor.open(service.state, **options) as executor:
        assert (await executor.run(request(str(service.rootfs), service.gate, "again"))).exit_code == 5
    assert await run("systemctl", "is-active", "dms-executor.scope") == "active"
