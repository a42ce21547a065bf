"""Jobs under runsc: what differs from crun and runc, what it refuses, and what a job sees of the host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable, InvalidRequest, NotSupported
from dms_executor.oci import runtime
from dms_executor.policy import Policy
from dms_executor.types import ByteSize, Resources, StorageVolume
from tests.runsc import needed, program

from .conftest import Bench, opened

pytestmark = needed


@pytest.fixture
async def bench(tmp_path: Path, busybox: Path) -> AsyncIterator[Bench]:
    """The engine, trusted, with runsc."""
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=program("runsc"), userns="auto") as ready:
        yield ready


def sandbox(bench: Bench, token: str) -> int:
    """The host's process in which the job lives."""
    return int((bench.state / "executions" / token / "pid").read_text())


def group(token: str, file: str) -> Path:
    """A file of the job's cgroup, in whichever hierarchy it is."""
    return next(path for path in Path("/sys/fs/cgroup").glob(f"**/dms-executor/{token}/{file}"))


def output(folder: Path) -> list[StorageVolume]:
    folder.mkdir()
    return [StorageVolume(type="bind", source=str(folder), target="/out")]


# What a job sees of the host.


async def test_a_job_has_a_kernel_of_its_own(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "uname -r; cat /proc/version; cat /proc/cmdline; dmesg")
    assert os.uname().release not in ran.stdout
    assert Path("/proc/version").read_text().strip() not in ran.stdout
    assert Path("/proc/cmdline").read_text().strip() not in ran.stdout
    assert "Operation not permitted" in ran.stderr  # dmesg


async def test_a_job_sees_its_own_processes_and_no_network(bench: Bench) -> None:
    script = (
        "echo $(ls /proc | grep '^[0-9]'); ip -o link | wc -l; cat /proc/1/comm; ls /sys/class/net /sys/block | wc -w"
    )
    ran = await bench.run("sh", "-c", script)
    pids, links, init, devices = ran.stdout.splitlines()
    assert pids.split()[:2] == ["1", "2"]
    assert len(pids.split()) <= 6
    assert (links, init) == ("1", ".dms-executor-i")
    assert int(devices) <= 2  # the headings


async def test_nothing_of_the_host_is_mounted_but_root_and_volumes(bench: Bench, tmp_path: Path) -> None:
    ran = await bench.run("cat", "/proc/mounts", outputs=output(tmp_path / "out"))
    served = {line.split()[1] for line in ran.stdout.splitlines() if line.split()[2] == "9p"}
    assert served == {"/", "/out", "/dev/.dms-executor-init", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    assert str(bench.state) not in ran.stdout
    read_only = {line.split()[1] for line in ran.stdout.splitlines() if "ro" in line.split()[3].split(",")}
    assert {"/sys", "/dev/.dms-executor-init", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} <= read_only


async def test_a_job_changes_nothing_of_the_host(bench: Bench, tmp_path: Path) -> None:
    script = (
        "echo x >/proc/sys/kernel/core_pattern && echo wrote; echo b >/proc/sysrq-trigger && echo wrote;"
        "mount -t tmpfs tmpfs /root && echo mounted; unshare -U true && echo unshared;"
        "mknod /out/node b 8 0 && echo made; hostname x && echo named; date -s 2001-01-01; true"
    )
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    ran = await bench.run("sh", "-c", script, outputs=output(tmp_path / "out"))
    assert {"wrote", "mounted", "unshared", "made", "named"}.isdisjoint(ran.stdout.split())
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    assert datetime.now(UTC).year > 2001
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_socket_and_a_fifo_of_the_hosts_stay_the_hosts(bench: Bench, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    os.mkfifo(given / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(given / "socket"))
        listening.listen()
        listening.setblocking(False)
        ran = await bench.run(
            *("sh", "-c", "timeout 2 cat /in/fifo; echo $?; timeout 2 nc local:/in/socket </dev/null; echo $?"),
            inputs=[StorageVolume(type="bind", source=str(given), target="/in")],
        )
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert "0" not in ran.stdout.split()


async def test_the_sandbox_is_shut_in_itself(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "1000")
    pid = sandbox(bench, x.token)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    spaces = ("ipc", "mnt", "net", "pid", "user", "uts")
    shared = [name for name in spaces if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")]
    mounts = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    # chown, dac_override, dac_read_search, fowner, fsetid, sys_ptrace, in a user namespace of its own.
    assert int(status["CapEff"], 16) & ~0x8001F == 0
    assert shared == []
    assert mounts == ["/"]


async def test_the_hosts_network_is_the_hosts(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        x, handle = await bench.started("nc", "127.0.0.1", str(listening.getsockname()[1]), network="host")
        connection, _ = await asyncio.wait_for(loop.sock_accept(listening), 20)
        with connection:
            await loop.sock_sendall(connection, b"from outside\n")
        ran = await bench.ended(x, handle)
        assert ran.stdout == "from outside\n"
        without = await bench.run("nc", "-w", "2", "127.0.0.1", str(listening.getsockname()[1]))
        assert without.exit.code == 1


# Limits.


async def test_a_fork_beyond_the_limit_fails_and_the_job_goes_on(bench: Bench) -> None:
    script = "i=0; while [ $i -lt 64 ]; do (sleep 1000 &) || break; i=$((i+1)); done 2>/said; echo $i; exit 5"
    # The subshell that cannot fork ends; the shell itself goes on.
    ran = await bench.run("sh", "-c", script, resources=Resources(pids=16))
    assert ran.exit.code in (2, 5), ran.exit  # 2: busybox's shell gives up at its own fork
    assert ran.exit.lost is None
    assert ran.exit.signal is None


async def test_the_host_counts_the_sandboxs_tasks(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "1000", resources=Resources(pids=10, cpu=0.5, memory=ByteSize("64MiB")))
    files = {name: group(x.token, name).read_text().strip() for name in ("pids.max", "pids.current")}
    stats = await bench.engine.stats(x, handle)
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)
    assert int(files["pids.current"]) > 10
    assert int(files["pids.max"]) < 200
    assert stats.pids is None  # the host knows the sandbox's tasks, and not the job's
    assert stats.memory_limit_bytes == 64 << 20


async def test_out_of_memory_takes_the_whole_sandbox(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "dd if=/dev/zero of=/dev/null bs=512M count=1; echo survived")
    assert (ran.exit.code, ran.exit.signal, ran.exit.lost) == (137, 9, None)
    assert ran.exit.usage.oom_kills >= 1
    assert "survived" not in ran.stdout


async def test_less_memory_than_the_sandbox_needs_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match=r"\$\.resources\.memory: 16MiB is too little") as caught:
        await bench.engine.validate(bench.execution("true", resources=Resources(memory=ByteSize("16MiB"))).request)
    assert "32MiB with the runtime runsc" in str(caught.value.mend)


async def test_the_disk_is_limited_and_tmp_is_memory(bench: Bench) -> None:
    limits = Resources(memory=ByteSize("96MiB"), disk=ByteSize("16MiB"))
    script = "dd if=/dev/zero of=/x bs=1M count=64; dd if=/dev/zero of=/tmp/x bs=1M count=24 && echo tmp"
    ran = await bench.run("sh", "-c", script, resources=limits)
    assert "No space left" in ran.stderr
    assert ran.stdout == "tmp\n"


async def test_the_seccomp_profile_is_kept_inside(tmp_path: Path, busybox: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"runtime": program("runsc"), "seccomp": str(profile)}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as bench:
        ran = await bench.run("sh", "-c", "grep Seccomp: /proc/self/status; mkdir /x")
    assert ran.stdout.split() == ["Seccomp:", "2"]
    assert "busy" in ran.stderr


# What it refuses.


async def test_its_probe_declares_what_it_has(bench: Bench) -> None:
    probe = await bench.engine.probe()
    assert probe.version.startswith("runsc ")
    assert probe.capabilities & {"pause", "userns", "exec", "copy"} == set()
    assert probe.capabilities >= {"memory", "cpu", "pids", "stats", "exact_signal", "oom_detection"}


async def test_a_job_without_our_init_is_refused(bench: Bench) -> None:
    with pytest.raises(NotSupported) as caught:
        await bench.engine.validate(bench.execution("true", init=False).request)
    assert (caught.value.engine, caught.value.what) == ("oci", "$.init")
    assert "runsc" in caught.value.message


async def test_pause_is_refused(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "1000")
    for power in (bench.engine.pause, bench.engine.resume):
        with pytest.raises(NotSupported) as caught:
            await power(x, handle)
        assert (caught.value.engine, caught.value.what) == ("oci", "pause")
    await bench.engine.stop(x, handle, 9, 0)
    assert (await bench.ended(x, handle)).exit.signal == 9


async def test_a_user_namespace_is_refused_where_it_is_required(tmp_path: Path, busybox: Path, bench: Bench) -> None:
    ran = await bench.run("true")  # userns is "auto"
    assert ran.handle.loosened == ["userns: runsc has a kernel of its own for the job instead"]
    async with opened(bench.state, busybox, Policy.trusted(), runtime=program("runsc"), userns="required") as strict:
        with pytest.raises(EngineUnavailable, match="runsc has a kernel of its own"):
            await strict.engine.validate(strict.execution("true").request)
        assert not (await strict.engine.probe()).usable


async def test_a_platform_can_be_chosen(tmp_path: Path, busybox: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"runtime": program("runsc"), "platform": "ptrace"}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as bench:
        x, handle = await bench.started("sleep", "1000")
        argv = Path(f"/proc/{sandbox(bench, x.token)}/cmdline").read_bytes().split(b"\0")
        await bench.engine.stop(x, handle, 9, 0)
        await bench.ended(x, handle)
        assert b"--platform=ptrace" in argv
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime="crun", platform="ptrace") as other:
        with pytest.raises(EngineUnavailable, match="crun has no platforms"):
            await other.engine.validate(other.execution("true").request)


async def test_a_kvm_that_runs_no_sandbox_is_told(
    tmp_path: Path, busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_TRIAL_DEADLINE", 4.0 * float(os.environ.get("DMS_EXECUTOR_SLOW", "1")))
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"runtime": program("runsc"), "platform": "kvm"}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as bench:
        probe = await bench.engine.probe()
        if probe.usable:
            assert (await bench.run("echo", "hi")).stdout == "hi\n"
        else:
            assert "platform kvm here" in probe.problem
            assert "setting platform" in probe.mend
            with pytest.raises(EngineUnavailable, match="platform kvm"):
                await bench.engine.validate(bench.execution("true").request)


# Deaths.


async def test_a_sandbox_killed_from_outside_is_a_kill(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "echo before; sleep 1000")
    await bench.said(x, b"before")
    os.kill(sandbox(bench, x.token), signal.SIGKILL)
    ran = await bench.ended(x, handle)
    assert (ran.exit.code, ran.exit.signal, ran.exit.stopped_by) == (137, 9, None)
    assert ran.stdout == "before\n"


async def test_a_signal_to_the_sandbox_is_the_jobs(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "trap 'exit 7' USR1; echo before; while :; do sleep 0.1; done")
    await bench.said(x, b"before")
    await bench.engine.signal(x, handle, signal.SIGUSR1)
    assert (await bench.ended(x, handle)).exit.code == 7


async def test_a_sandbox_that_crashes_is_lost(bench: Bench, tmp_path: Path) -> None:
    # The job's limit is each user's; all users together meet the host's, on which the sandbox crashes.
    users = [f"u{uid}" for uid in range(100, 150)]
    (tmp_path / "passwd").write_text("".join(f"{name}:x:{name[1:]}:100::/tmp:/bin/sh\n" for name in ["r0", *users]))
    each = "for i in 1 2 3 4 5 6 7; do sleep 1000 & done"
    script = f"echo before; for u in {' '.join(users)}; do su $u -c '{each}'; done; sleep 1000"
    volumes = [StorageVolume(type="bind", source=str(tmp_path / "passwd"), target="/etc/passwd")]
    ran = await bench.run("sh", "-c", script, resources=Resources(pids=8), inputs=volumes)
    assert ran.exit.code is None, ran.stderr
    assert ran.exit.lost == "the job's init exited with 2 and without a report"
    assert ran.stdout == "before\n"


async def test_without_its_shim_nothing_goes_on(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "trap '' TERM HUP; echo ready; while :; do sleep 1; done")
    await bench.said(x, b"ready")
    pidfd = os.pidfd_open(sandbox(bench, x.token))
    gone = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(pidfd, lambda: gone.done() or gone.set_result(None))
    os.kill(handle.state["pid"], signal.SIGKILL)
    try:
        async with asyncio.timeout(20):
            await gone
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
    assert (await bench.engine.watch(x, handle)).lost is not None
    await bench.engine.destroy(x, handle)
    assert bench.left(x) == []


async def test_secrets_are_in_no_file_once_the_job_runs(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "1000", secret_environment={"TOKEN": "hush-hush"})
    room = Path("/proc", str(handle.state["pid"]), "root", "run/dms-executor")
    holders = [path for path in [*room.glob("runtime/*"), *x.folder.rglob("*")] if path.is_file() and _holds(path)]
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)
    assert holders == []


def _holds(path: Path) -> bool:
    try:
        return b"hush-hush" in path.read_bytes()
    except OSError:
        return False
