"""A job in a microVM by the real Firecracker, jailed and not: its end, its streams, its stops, its disks.

In the host in a box: `scripts/host pytest tests/firecracker`, with a static firecracker and its jailer on PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor import (
    ByteSize,
    ExecutionRequest,
    Executor,
    LogStreamRequest,
    PortMapping,
    Resources,
    StorageVolume,
)
from dms_executor.firecracker import FirecrackerSpec
from dms_executor.microvm import cpio
from dms_executor.policy import Policy
from dms_executor.types import ExecutionResult, Settings
from tests import firecrackers, kernels, lan
from tests.oci.talk import reply

pytestmark = firecrackers.needed


@pytest.fixture(params=[True, False], ids=["jailed", "bare"])
async def executor(request: pytest.FixtureRequest, state: Path, rootfs: Path, folder: Path) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs, folder), write_roots=(folder,), missing_defaults="record")
    engine = firecrackers.settings() | {"jailed": request.param}
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


def job(rootfs: Path, *cmd: str, **fields: Any) -> ExecutionRequest:
    spec = FirecrackerSpec(image=f"rootfs:{rootfs}", cmd=list(cmd)).build()
    return ExecutionRequest(job_id="job", execution_id=f"e{os.urandom(6).hex()}", engine_spec=spec, **fields)


async def run(executor: Executor, rootfs: Path, script: str, **fields: Any) -> ExecutionResult:
    return await executor.run(job(rootfs, "sh", "-c", script, **fields))


async def test_both_streams_and_the_code_come_back(executor: Executor, rootfs: Path, state: Path) -> None:
    request = job(rootfs, "sh", "-c", "echo out; echo err >&2; cat /proc/sys/kernel/random/boot_id; exit 7")
    result = await executor.run(request)
    assert (result.status, result.reason, result.exit_code, result.stderr) == ("failed", "exited", 7, b"err\n"), result
    assert result.stdout.startswith(b"out\n")
    assert Path("/proc/sys/kernel/random/boot_id").read_bytes() not in result.stdout
    assert result.usage.cpu_seconds is not None
    await executor.remove(request.execution_id)
    assert not [*state.glob("executions/*/vm")]


async def test_memory_is_the_job_s_and_its_end_says_so(executor: Executor, rootfs: Path) -> None:
    limits = Resources(memory=ByteSize("32MiB"))
    script = "echo before; exec dd if=/dev/zero of=/dev/null bs=512M count=1"
    result = await run(executor, rootfs, script, resources=limits)
    assert (result.reason, result.exit_code, result.stdout) == ("oom_killed", 137, b"before\n"), result


async def test_outputs_come_back_above_what_was_there(executor: Executor, rootfs: Path, folder: Path) -> None:
    own = folder / os.urandom(6).hex()
    (own / "given").mkdir(parents=True)
    (own / "given" / "file").write_text("given")
    (own / "old").mkdir()
    (own / "old" / "kept").write_text("kept")
    (own / "list").write_text("one\n")
    result = await run(
        executor,
        rootfs,
        "cat /in/file /one /out/kept; echo new >/out/sub; echo more >>/list; echo x >/results/y; touch /in/z || exit 4",
        inputs=[
            StorageVolume(source=str(own / "given"), target="/in"),
            StorageVolume(source=str(own / "given" / "file"), target="/one"),
            StorageVolume(source=str(own / "old"), target="/out", read_only=False),
            StorageVolume(source=str(own / "list"), target="/list", read_only=False),
        ],
        outputs=[StorageVolume(target="/results")],
        results_dir=str(own / "results"),
        resources=Resources(disk=ByteSize("64MiB")),
    )
    assert (result.exit_code, result.stdout) == (4, b"givengivenkept"), result
    assert (own / "list").read_text() == "one\nmore\n"
    assert {path.name: path.read_text() for path in (own / "old").iterdir()} == {"kept": "kept", "sub": "new\n"}
    assert (own / "results" / "outputs" / "results" / "y").read_text() == "x\n"


async def test_a_running_job_has_its_powers(executor: Executor, rootfs: Path) -> None:
    request = job(rootfs, "sh", "-c", "trap 'exit 5' TERM; touch /seen; while :; do sleep 1 & wait $!; done")
    await executor.start(request)
    name = request.execution_id
    done = await executor.exec(name, ["sh", "-c", "cat; until ls /seen; do :; done; exit 3"], stdin=b"in\n")
    assert (done.exit_code, done.stdout) == (3, b"in\n/seen\n"), done
    assert (await executor.stats(name)).memory_bytes
    await executor.pause(name)
    assert (await executor.inspect(name)).status == "paused"
    await executor.resume(name)
    await executor.cancel(name, grace=600)
    result = await executor.wait(name)
    assert (result.status, result.exit_code) == ("cancelled", 5), result


async def test_the_end_of_the_monitor_is_no_result(executor: Executor, rootfs: Path) -> None:
    request = job(rootfs, "sleep", "100000")
    await executor.start(request)
    info = await executor.inspect(request.execution_id)
    os.kill(_monitor(int(info.engine_ids["shim"])), signal.SIGKILL)
    result = await asyncio.wait_for(executor.wait(request.execution_id), 600)
    assert (result.status, result.reason, result.exit_code) == ("failed", "engine_lost", None), result


@pytest.fixture
def on_a_host_of_its_own() -> Iterator[None]:
    """A network namespace of the test's own, with a server outside."""
    lan.needed()
    with lan.host_and_outside():
        yield


@pytest.mark.usefixtures("on_a_host_of_its_own")
async def test_a_network_reaches_outside_and_a_port_the_job(
    executor: Executor, rootfs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ("10.0.2.2", "10.0.2.3")
    serve = "while :; do printf hi | nc -l -p 8080 >/dev/null; done"
    script = f"exec 2>/dev/null; {lan.ask_all(*own)}; echo serving; {serve}"
    ports = [PortMapping(container_port=8080)]
    request = job(rootfs, "sh", "-c", script, network="user", ports=ports)
    await executor.start(request)
    name, said = request.execution_id, b""
    async with await executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
        async for chunk in stream:
            said += chunk
            if b"serving" in said:
                break
    assert lan.answers(said) == {**lan.right_answers(*own), "serving": ""}
    (port,) = (await executor.inspect(name)).ports
    assert await _answer(port.host_port) == b"hi"
    await executor.cancel(name, grace=0)
    assert (await executor.inspect(name)).engine_ids.get("snapshot")
    assert "did not come to life" not in caplog.text


async def _answer(port: int) -> bytes:
    """Of the job's server, which says nothing once it listens."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ConnectionError):
                if said := await asyncio.to_thread(reply, "127.0.0.1", port, "tcp"):
                    return said
            await asyncio.sleep(0.1)


async def test_a_machine_of_the_user_s_own_is_its_console(executor: Executor, rootfs: Path, folder: Path) -> None:
    """An initrd of one program and a disk that it does not mount."""
    own = folder / os.urandom(6).hex()
    own.mkdir()
    script = b"#!/bin/busybox sh\n/bin/busybox echo own $$\n/bin/busybox reboot -f\n"
    entries = [
        *(cpio.folder(name) for name in ("bin", "dev")),
        cpio.device("dev/console", 5, 1),
        cpio.file("bin/busybox", (rootfs / "bin/busybox").read_bytes(), 0o755),
        cpio.file("init", script, 0o755),
    ]
    (own / "initrd").write_bytes(b"".join(cpio.archive(entries)))
    (own / "disk").write_bytes(bytes(1 << 20))
    (own / "kernel").write_bytes(Path(kernels.installed()[0]).read_bytes())
    spec = FirecrackerSpec(
        kernel_image=str(own / "kernel"),
        initrd_path=str(own / "initrd"),
        root_file_system=str(own / "disk"),
        mmds_message={"a": "b"},
    ).build()
    request = ExecutionRequest(job_id="job", execution_id=own.name, engine_spec=spec)
    result = await executor.run(request)
    assert (result.status, result.reason, result.exit_code) == ("success", "exited", None), result
    assert b"own 1" in result.stdout


def _monitor(shim: int) -> int:
    """Firecracker: the shim runs dms-vm, which runs it."""
    return _child(_child(shim))


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
