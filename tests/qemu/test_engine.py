"""A job in a microVM by the ordinary API: its end, its streams, its stops. One boot a test, a few seconds each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import ByteSize, Executor, LogStreamRequest, Resources, StorageVolume
from dms_executor.errors import NotSupported, StartFailed
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import lan, qemus
from tests.qemu.jobs import job, run

pytestmark = qemus.needed


async def test_both_streams_and_the_code_come_back(executor: Executor, rootfs: Path) -> None:
    result = await run(
        executor, rootfs, "both", "echo out; echo err >&2; uname -n; exit 7", params={"hostname": "there"}
    )
    assert (result.status, result.reason, result.exit_code) == ("failed", "exited", 7), result
    assert (result.stdout, result.stderr) == (b"out\nthere\n", b"err\n")
    assert result.usage.cpu_seconds is not None


async def test_a_kernel_of_its_own_runs_the_job(executor: Executor, rootfs: Path) -> None:
    result = await run(executor, rootfs, "kernel", "cat /proc/sys/kernel/random/boot_id")
    here = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    assert result.exit_code == 0, result
    assert result.stdout != here


async def test_what_is_given_as_stdin_arrives_whole(executor: Executor, rootfs: Path) -> None:
    data = os.urandom(1 << 20)
    result = await run(executor, rootfs, "stdin", "md5sum; echo rest", stdin=data)
    assert result.stdout.split() == [hashlib.md5(data).hexdigest().encode(), b"-", b"rest"], result


async def test_a_missing_command_is_said_at_the_start(executor: Executor, rootfs: Path) -> None:
    with pytest.raises(StartFailed, match="/no/such") as caught:
        await executor.run(job(rootfs, "missing", "/no/such"))
    assert caught.value.errno == 2


async def test_a_cancel_reaches_the_job(executor: Executor, rootfs: Path) -> None:
    script = "trap 'echo stopped; exit 5' TERM; echo ready; while :; do sleep 1 & wait $!; done"
    await executor.start(job(rootfs, "cancel", "sh", "-c", script))
    async with await executor.get_log_stream(LogStreamRequest(execution_id="cancel", follow=True)) as stream:
        async for chunk in stream:
            if b"ready" in chunk:
                break
    await executor.cancel("cancel", grace=60)
    result = await executor.wait("cancel")
    assert (result.status, result.exit_code, result.stdout) == ("cancelled", 5, b"ready\nstopped\n"), result


async def test_memory_is_the_job_s_and_its_end_says_so(executor: Executor, rootfs: Path) -> None:
    result = await run(
        executor,
        rootfs,
        "oom",
        "echo before; exec dd if=/dev/zero of=/dev/null bs=512M count=1",
        resources=Resources(memory=ByteSize("32MiB")),
    )
    assert (result.reason, result.exit_code, result.stdout) == ("oom_killed", 137, b"before\n"), result


async def test_outputs_come_back_above_what_was_there(executor: Executor, rootfs: Path, folder: Path) -> None:
    (folder / "given").mkdir()
    (folder / "given" / "file").write_text("given")
    (folder / "old").mkdir()
    (folder / "old" / "kept").write_text("kept")
    (folder / "list").write_text("one\n")
    script = (
        "cat /in/file /one /out/kept; echo new >/out/sub; echo more >>/list; echo x >/results/y; touch /in/z || exit 4"
    )
    result = await run(
        executor,
        rootfs,
        "outputs",
        script,
        inputs=[
            StorageVolume(source=str(folder / "given"), target="/in"),
            StorageVolume(source=str(folder / "given" / "file"), target="/one"),
            StorageVolume(source=str(folder / "old"), target="/out", read_only=False),
            StorageVolume(source=str(folder / "list"), target="/list", read_only=False),
        ],
        outputs=[StorageVolume(target="/results")],
        results_dir=str(folder / "results"),
        resources=Resources(disk=ByteSize("64MiB")),
    )
    assert (result.exit_code, result.stdout) == (4, b"givengivenkept"), result
    assert (folder / "list").read_text() == "one\nmore\n"
    assert {path.name: path.read_text() for path in (folder / "old").iterdir()} == {"kept": "kept", "sub": "new\n"}
    assert (folder / "results" / "outputs" / "results" / "y").read_text() == "x\n"
    assert (folder / "results" / "exit_code").read_text() == "4\n"


async def test_a_cleanup_takes_the_images_of_folders_that_no_job_has(state: Path, rootfs: Path) -> None:
    policy = Policy(read_roots=(rootfs,), missing_defaults="record")
    settings = Settings(engines={"qemu": qemus.settings()}, image_retention=0)
    async with Executor.open(state, policy=policy, settings=settings) as opened:
        await opened.run(job(rootfs, "once", "true"))
        roots = state / "microvm" / "roots"
        assert len(list(roots.iterdir())) == 1
        report = await opened.cleanup()
        assert list(roots.iterdir()) == []
        assert report.bytes_freed > 1 << 20


@pytest.fixture
def on_a_host_of_its_own() -> Iterator[None]:
    """A network namespace of the test's own, with a server outside."""
    lan.needed()
    with lan.host_and_outside():
        yield


@pytest.mark.usefixtures("on_a_host_of_its_own")
async def test_a_job_reaches_outside_and_nothing_of_the_hosts_own(executor: Executor, rootfs: Path) -> None:
    own = ("10.0.2.2", "10.0.3.2", "10.0.3.3")
    result = await run(executor, rootfs, "talk", lan.ask_all(*own), network="user")
    assert result.exit_code == 0, result
    assert lan.answers(result.stdout) == lan.right_answers(*own)


async def test_a_network_is_refused_before_anything_is_made(executor: Executor, rootfs: Path) -> None:
    with pytest.raises(NotSupported, match="network"):
        await executor.run(job(rootfs, "network", "true", network="host"))
    assert "network" not in [info.request.execution_id for info in await executor.list()]


async def test_a_further_command_runs_beside_the_job(executor: Executor, rootfs: Path) -> None:
    await executor.start(job(rootfs, "exec", "sh", "-c", "touch /seen; exec sleep 1000"))
    try:
        done = await executor.exec("exec", ["sh", "-c", "cat; ls /seen; echo err >&2; exit 3"], stdin=b"in\n")
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"in\n/seen\n", b"err\n")
        late = await executor.exec("exec", ["sh", "-c", "sleep 1001 & sleep 1002"], timeout=1.0)
        assert late.timed_out
        left = await executor.exec("exec", ["sh", "-c", "ps | grep -c 'slee[p] 100[12]'"])
        assert left.stdout == b"0\n"
        with pytest.raises(StartFailed):
            await executor.exec("exec", ["/no/such"])
        much = await executor.exec("exec", ["sh", "-c", "head -c 3000000 /dev/zero"])
        assert len(much.stdout) == 1 << 20
        assert much.stdout_truncated
    finally:
        await executor.cancel("exec", grace=0)


async def test_a_disk_is_no_faster_than_the_machines_owner_says(state: Path, rootfs: Path) -> None:
    policy = Policy(read_roots=(rootfs,), missing_defaults="record")
    settings = Settings(engines={"qemu": {**qemus.settings(), "warm": False, "disk_rate": {"bandwidth": "8MiB"}}})
    script = "cat /proc/uptime && dd if=/dev/zero of=/file bs=1M count=24 conv=fsync 2>/dev/null && cat /proc/uptime"
    async with Executor.open(state, policy=policy, settings=settings) as opened:
        done = await run(opened, rootfs, "rate", script, resources=Resources(disk=ByteSize("64MiB")))
    assert done.exit_code == 0, done
    began, ended = (float(line.split()[0]) for line in done.stdout.splitlines())
    # A tenth of a second's may come at once.
    assert ended - began > 2, done
