"""Jobs in real containers: their end, their limits, what they see, what they leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dms_executor.errors import ExecutionNotRunning, StartFailed
from dms_executor.oci.engine import OciEngine
from dms_executor.policy import Policy
from dms_executor.types import ByteSize, Resources, StorageVolume

from .conftest import Bench, opened


async def test_output_and_exit_code(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ran.exit.code, ran.exit.signal) == (3, None)
    assert (ran.stdout, ran.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137])
async def test_the_jobs_own_codes_are_its_own(bench: Bench, code: int) -> None:
    ran = await bench.run("sh", "-c", f"exit {code}")
    assert (ran.exit.code, ran.exit.signal, ran.exit.killed) == (code, None, False)


async def test_a_signal_is_told_from_a_code(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "kill -9 $$")
    assert (ran.exit.code, ran.exit.signal) == (137, 9)


@pytest.mark.parametrize("init", [True, False])
async def test_a_missing_command_is_raised(bench: Bench, init: bool) -> None:
    x = bench.execution("nosuch", init=init)
    _, handle = await bench.created(x)
    with pytest.raises(StartFailed, match="nosuch"):
        await bench.engine.start(x, handle)
    await bench.engine.destroy(x, handle)
    assert bench.left(x) == []


async def test_a_file_that_cannot_be_executed_is_raised(bench: Bench) -> None:
    x = bench.execution("/etc/passwd")
    _, handle = await bench.created(x)
    with pytest.raises(StartFailed, match="ermission"):
        await bench.engine.start(x, handle)
    await bench.engine.destroy(x, handle)


async def test_an_image_with_its_own_init(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "echo $$; grep Seccomp: /proc/self/status; exit 4", init=False)
    assert ran.stdout == "1\nSeccomp:\t2\n"
    assert ran.exit.code == 4


async def test_nothing_of_the_host_is_visible(bench: Bench) -> None:
    script = "ls /proc | grep -c '^[0-9]'; ls /sys/class/net; mount | grep -c ' / '; hostname; cat /proc/self/cgroup"
    ran = await bench.run("sh", "-c", script, params={"hostname": "box"})
    lines = ran.stdout.splitlines()
    assert int(lines[0]) < 8
    assert lines[1:4] == ["lo", "1", "box"]
    assert "dms-executor" not in ran.stdout


async def test_capabilities_seccomp_and_no_new_privileges(bench: Bench) -> None:
    ran = await bench.run(
        "sh", "-c", "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; keyctl; mount -t tmpfs x /tmp"
    )
    status = dict(line.split(":\t") for line in ran.stdout.splitlines())
    assert status["CapEff"] == "00000000a00425fb"  # Docker's default without CAP_MKNOD
    assert status["CapBnd"] == status["CapEff"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "denied" in ran.stderr or "not permitted" in ran.stderr


async def test_no_new_namespaces(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "unshare -U true; echo $?; unshare -m true; echo $?; (true) && echo forks")
    assert ran.stdout == "1\n1\nforks\n"


async def test_the_user_has_no_capabilities(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "id; echo $HOME; grep CapEff /proc/self/status", params={"user": "app"})
    assert "uid=1000" in ran.stdout
    assert "gid=1001" in ran.stdout
    assert "1002" in ran.stdout
    assert "/home/app" in ran.stdout
    assert "CapEff:\t0000000000000000" in ran.stdout


async def test_an_unknown_user_is_raised(bench: Bench) -> None:
    x = bench.execution("true", params={"user": "nosuch"})
    with pytest.raises(StartFailed, match="nosuch"):
        await bench.created(x)
    await bench.engine.destroy(x, None)
    assert bench.left(x) == []


async def test_environment_and_working_directory(bench: Bench) -> None:
    ran = await bench.run(
        "sh",
        "-c",
        "pwd; echo $A $B $C $D; echo $PATH",
        params={"working_directory": "/made/here", "environment": {"A": "params", "B": "params"}},
        environment={"B": "request", "C": "request"},
        secret_environment={"C": "secret", "D": "secret"},
    )
    assert ran.stdout.splitlines()[:2] == ["/made/here", "params request secret secret"]
    assert "/usr/local/sbin:" in ran.stdout


async def test_secrets_are_gone_once_the_job_runs(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "60", secret_environment={"S": "very-secret-value"})
    found = await asyncio.to_thread(subprocess.run, ["grep", "-rl", "very-secret", x.folder], capture_output=True)
    assert found.stdout == b""
    await bench.engine.destroy(x, handle)


async def test_any_user_reaches_a_deep_target(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("reached")
    volume = StorageVolume(source=str(tmp_path / "file"), target="/made/for/file")
    ran = await bench.run("cat", "/made/for/file", inputs=[volume], params={"user": "app"})
    assert ran.stdout == "reached"


async def test_the_root_is_writable_and_thrown_away(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "echo x > /new && rm /etc/passwd && ls /etc")
    assert ran.exit.code == 0
    assert not (bench.busybox / "new").exists()
    assert (bench.busybox / "etc" / "passwd").exists()


async def test_a_read_only_root(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "echo x > /new", params={"read_only_root": True})
    assert ran.exit.code != 0
    assert "Read-only" in ran.stderr


async def test_out_of_memory_is_counted(bench: Bench) -> None:
    script = "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c; exit 9"
    ran = await bench.run("sh", "-c", script, resources=Resources(memory=ByteSize("24MiB"), pids=32))
    assert ran.exit.oom_kills >= 1
    assert ran.exit.code == 9 or (ran.exit.signal == 9 and ran.exit.oom_kills > 1)  # it may take the shell, too


async def test_the_pids_limit(bench: Bench) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all"
    ran = await bench.run("sh", "-c", script, resources=Resources(memory=ByteSize("64MiB"), pids=6))
    assert "all" not in ran.stdout


async def test_the_limits_are_in_the_kernel(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "60", resources=Resources(memory=ByteSize("64MiB"), cpu=0.5))
    host = await bench.engine._ready()
    group = host.job_group("dms-executor", x.token)
    v1 = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "pids.max")
    v2 = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
    values = {}
    for folder in host.cgroups.folders(group):
        for name in v2 if host.cgroups.mode == "v2" else v1:
            path = Path(folder) / name
            if path.exists():
                values[name] = path.read_text().strip()
    await bench.engine.destroy(x, handle)
    if host.cgroups.mode == "v2":
        assert values == dict(zip(v2, (str(64 << 20), "0", "50000 100000", "4096"), strict=True))
    else:
        assert values["memory.limit_in_bytes"] == values["memory.memsw.limit_in_bytes"] == str(64 << 20)
        assert (values["cpu.cfs_quota_us"], values["pids.max"]) == ("50000", "4096")


async def test_a_disk_limit(bench: Bench) -> None:
    limits = Resources(memory=ByteSize("64MiB"), disk=ByteSize("16MiB"))
    script = "echo first > /a; dd if=/dev/zero of=/big bs=1M count=64; cat /a"
    ran = await bench.run("sh", "-c", script, resources=limits)
    assert "No space left" in ran.stderr
    assert ran.stdout == "first\n"


async def test_volumes(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("input\n")
    (tmp_path / "rw").mkdir()
    volumes = [
        StorageVolume(source=str(tmp_path / "in"), target="/in"),
        StorageVolume(source=str(tmp_path / "in" / "file"), target="/file"),
        StorageVolume(source=str(tmp_path / "rw"), target="/rw", read_only=False),
        StorageVolume(type="tmpfs", target="/scratch", size=ByteSize("1MiB")),
    ]
    script = """
        cat /in/file /file; echo x > /in/no; echo y > /rw/yes; echo z > /out/made
        dd if=/dev/zero of=/scratch/big bs=1M count=4; ln -s /etc/passwd /out/link"""
    ran = await bench.run(
        "sh",
        "-c",
        script,
        inputs=volumes,
        outputs=[StorageVolume(target="/out")],
        results_dir=str(tmp_path / "results"),
    )
    assert ran.stdout == "input\ninput\n"
    assert "Read-only" in ran.stderr
    assert "No space left" in ran.stderr
    assert (tmp_path / "rw" / "yes").read_text() == "y\n"
    [output] = ran.outputs
    assert (output.target, output.path) == ("/out", str(tmp_path / "results" / "outputs" / "out"))
    made = tmp_path / "results" / "outputs" / "out"
    assert (made / "made").read_text() == "z\n"
    assert (made / "link").is_symlink()
    assert (tmp_path / "results" / "stdout").read_text() == ran.stdout
    assert (tmp_path / "results" / "exit_code").read_text() == "0\n"


async def test_stdin(bench: Bench, tmp_path: Path) -> None:
    assert (await bench.run("cat", stdin=b"bytes\xff".replace(b"\xff", b"!"))).stdout == "bytes!"
    (tmp_path / "stdin").write_text("file")
    assert (await bench.run("cat", stdin_file=str(tmp_path / "stdin"))).stdout == "file"
    assert (await bench.run("cat")).stdout == ""


async def test_network_files_and_none(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "cat /etc/hosts /etc/hostname; ping -c1 -W1 127.0.0.1 >/dev/null && echo up")
    assert "127.0.0.1\tlocalhost" in ran.stdout
    assert ran.stdout.endswith("up\n")


async def test_network_host(bench: Bench) -> None:
    ran = await bench.run("readlink", "/proc/self/ns/net", network="host")
    assert ran.stdout.strip() == os.readlink("/proc/self/ns/net")


async def test_a_timeout_holds(bench: Bench) -> None:
    ran = await bench.run("sleep", "60", timeout=0.2)
    assert (ran.exit.stopped_by, ran.exit.signal, ran.exit.killed) == ("deadline", 15, True)


async def test_a_stop_reaches_children_that_left_the_session(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "setsid sleep 99 & trap 'exit 5' TERM; echo ready; sleep 99 & wait")
    await bench.said(x, b"ready")
    await bench.engine.stop(x, handle, signal.SIGTERM, 5.0)
    ran = await bench.ended(x, handle)
    assert (ran.exit.code, ran.exit.stopped_by) == (5, "stop")


async def test_one_that_ignores_the_signal_is_killed(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done")
    await bench.said(x, b"ready")
    await bench.engine.stop(x, handle, signal.SIGTERM, 0.1)
    ran = await bench.ended(x, handle)
    assert (ran.exit.signal, ran.exit.stopped_by) == (9, "stop")


async def test_a_paused_job_is_seen_and_ends(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "60")
    await bench.engine.pause(x, handle)
    await bench.engine.pause(x, handle)
    assert (await bench.engine.survey())[x.token].phase == "paused"
    await bench.engine.resume(x, handle)
    assert (await bench.engine.survey())[x.token].phase == "running"
    await bench.engine.pause(x, handle)
    await bench.engine.stop(x, handle, signal.SIGTERM, 5.0)
    ran = await bench.ended(x, handle)
    assert ran.exit.signal == 15


async def test_signals_and_stats(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "trap 'exit 7' USR1; echo ready; while true; do sleep 0.01; done")
    stats = await bench.engine.stats(x, handle)
    assert stats.memory_limit_bytes == 64 << 20
    assert stats.pids
    assert stats.cpu_seconds is not None
    await bench.said(x, b"ready")
    await bench.engine.signal(x, handle, signal.SIGUSR1)
    ran = await bench.ended(x, handle)
    assert ran.exit.code == 7
    with pytest.raises(ExecutionNotRunning):
        await bench.engine.signal(x, handle, signal.SIGUSR1)
    with pytest.raises(ExecutionNotRunning):
        await bench.engine.stats(x, handle)


async def test_another_process_follows_and_ends_it(bench: Bench, runtime: str) -> None:
    x, handle = await bench.started("sleep", "60")
    async with opened(bench.state, bench.busybox, Policy(), runtime=runtime) as other:
        assert (await other.engine.survey())[x.token].phase == "running"
        watching = [asyncio.create_task(each.engine.watch(x, handle)) for each in (bench, other)]
        await asyncio.sleep(0)
        await other.engine.stop(x, handle, signal.SIGKILL, 0)
        one, two = await asyncio.gather(*watching)
        assert one == two
        assert (await other.engine.survey())[x.token].phase == "ended"
        await other.engine.destroy(x, handle)
    assert bench.left(x) == []


async def test_what_never_got_its_go_is_undone(bench: Bench, runtime: str) -> None:
    x = bench.execution("true")
    _, handle = await bench.created(x)
    assert (await bench.engine.survey())[x.token].phase == "created"
    async with opened(bench.state, bench.busybox, Policy(), runtime=runtime) as other:
        await other.engine.destroy(x, None)
    assert bench.left(x) == []
    await bench.engine.destroy(x, handle)
    assert x.token not in await bench.engine.survey()


async def test_a_killed_shim_is_a_lost_engine(bench: Bench) -> None:
    x, handle = await bench.started("sh", "-c", "setsid sleep 99 & sleep 99")
    watching = asyncio.create_task(bench.engine.watch(x, handle))
    await asyncio.sleep(0)
    os.kill(handle.state["pid"], signal.SIGKILL)
    end = await asyncio.wait_for(watching, 5)
    assert end.lost
    assert end.code is None
    await bench.engine.destroy(x, handle)
    assert bench.left(x) == []


async def test_destroy_in_any_phase_and_twice(bench: Bench) -> None:
    x = bench.execution("sleep", "60")
    await bench.engine.destroy(x, None)
    prepared = await bench.engine.prepare(x, lambda progress: None)
    await bench.engine.destroy(x, None)
    handle = await bench.engine.create(x, prepared)
    await bench.engine.destroy(x, None)
    x, handle = await bench.started("sleep", "60")
    await bench.engine.destroy(x, None)
    await bench.engine.destroy(x, handle)
    assert bench.left(x) == []


async def test_an_oci_image_is_honoured(bench: Bench, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(_layout, tmp_path, bench.busybox)
    ran = await bench.run(params={"image": f"oci:{folder}"})
    assert ran.stdout.splitlines() == ["entry image-cmd", "A=image", "/work", "1000"]
    assert ran.exit.code == 0
    ran = await bench.run("mine", params={"image": f"oci:{folder}"})
    assert ran.stdout.startswith("entry mine\n")
    x = bench.execution(params={"image": f"oci:{folder}", "entrypoint": []})
    with pytest.raises(StartFailed, match="no command"):
        await bench.created(x)
    await bench.engine.destroy(x, None)
    x = bench.execution(params={"image": f"oci:{folder}"})
    prepared = await bench.engine.prepare(x, lambda progress: None)
    assert prepared.stop_signal == signal.SIGQUIT
    await bench.engine.destroy(x, None)
    assert bench.left(x) == []


def _layout(tmp_path: Path, busybox: Path) -> Path:
    import hashlib
    import subprocess

    from dms_executor.images import host_architecture

    folder = tmp_path / "layout"
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    tar = subprocess.run(["tar", "-C", str(busybox), "-c", "."], check=True, capture_output=True).stdout
    config = {
        "Entrypoint": ["sh", "-c", "echo entry $0; env | grep ^A=; pwd; id -u"],
        "Cmd": ["image-cmd"],
        "Env": ["A=image"],
        "WorkingDir": "/work",
        "User": "app",
        "StopSignal": "SIGQUIT",
    }
    image = {
        "architecture": host_architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
    }
    media = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": f"{media}.config.v1+json", **blob(json.dumps(image).encode())},
        "layers": [{"mediaType": f"{media}.layer.v1.tar", **blob(tar)}],
    }
    entry = {"mediaType": f"{media}.manifest.v1+json", **blob(json.dumps(manifest).encode())}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


async def test_probe_says_which_runtime_and_why(bench: Bench, runtime: str) -> None:
    probe = await bench.engine.probe()
    assert probe.usable
    assert runtime in probe.version
    assert {"memory", "cpu", "pids", "pause", "stats"} <= probe.capabilities


async def test_a_missing_runtime_is_told(tmp_path: Path, busybox: Path) -> None:
    async with opened(tmp_path, busybox, Policy(), runtime="/nonexistent/crun") as bench:
        probe = await bench.engine.probe()
    assert not probe.usable
    assert "/nonexistent/crun" in probe.problem
    assert probe.mend


def test_rank() -> None:
    assert (OciEngine.name, OciEngine.rank) == ("oci", 10)
