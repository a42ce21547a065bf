"""The whole engine with programs that stand in for Firecracker and its jailer: every launch is checked by the API's
description, every call answered as it says, and faults of it are injected. What a guest does is not seen here.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor import ByteSize, ExecutionRequest, Executor, LogStreamRequest, Resources, StorageVolume
from dms_executor.errors import EngineUnreachable, ExecutionNotRunning, InvalidRequest, NotSupported
from dms_executor.firecracker import FirecrackerSpec
from dms_executor.firecracker.api import ApiRefused
from dms_executor.firecracker.spec import checked_params
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import kernels

pytestmark = [
    kernels.needed,
    pytest.mark.skipif(os.geteuid() != 0, reason="the engine firecracker takes root so far"),
]


@pytest.fixture(params=[True, False], ids=["jailed", "bare"])
async def executor(
    request: pytest.FixtureRequest,
    state: Path,
    rootfs: Path,
    folder: Path,
    stood_in: Callable[[bool], dict[str, Any]],
) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs, folder), write_roots=(folder,))
    engine = stood_in(request.param)
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


def job(rootfs: Path, *cmd: str, params: dict[str, Any] | None = None, **fields: Any) -> ExecutionRequest:
    spec = FirecrackerSpec(image=f"rootfs:{rootfs}", cmd=list(cmd), **(params or {})).build()
    return ExecutionRequest(job_id="job", execution_id=f"e{os.urandom(6).hex()}", engine_spec=spec, **fields)


def raw(folder: Path, **params: Any) -> ExecutionRequest:
    root = folder / "root.ext4"
    root.write_bytes(b"of the user's own")
    kernel = folder / "vmlinuz"
    if not kernel.exists():
        kernel.write_bytes(Path(kernels.installed()[0]).read_bytes())
    spec = FirecrackerSpec(kernel_image=str(kernel), root_file_system=str(root), **params).build()
    return ExecutionRequest(job_id="job", execution_id=f"e{os.urandom(6).hex()}", engine_spec=spec)


async def until(executor: Executor, request: ExecutionRequest, said: bytes) -> None:
    async with await executor.get_log_stream(
        LogStreamRequest(execution_id=request.execution_id, follow=True)
    ) as stream:
        async for chunk in stream:
            if said in chunk:
                return
    raise AssertionError(f"it never said {said!r}")


async def test_a_launch_that_the_description_allows(
    executor: Executor, rootfs: Path, folder: Path, state: Path
) -> None:
    given = folder / os.urandom(6).hex()
    given.mkdir()
    (given / "file").write_text("given")
    request = job(
        rootfs,
        *("/bin/sh", "-c", "echo out; echo err >&2; exit 7"),
        params={"kernel_args": "debug"},
        inputs=[StorageVolume(source=str(given), target="/in"), StorageVolume(type="tmpfs", target="/t")],
        resources=Resources(cpu=1.5, memory=ByteSize("64MiB"), disk=ByteSize("16MiB")),
    )
    result = await executor.run(request)
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n"), result
    await executor.remove(request.execution_id)
    assert not [*state.glob("executions/*/vm")]


async def test_pause_and_resume_are_calls_of_the_api(executor: Executor, rootfs: Path, folder: Path) -> None:
    request = job(rootfs, "/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    await executor.start(request)
    await until(executor, request, b"ready")
    for _ in range(2):  # once it stands still its API answers nobody
        await asyncio.wait_for(executor.pause(request.execution_id), 5)
        assert (await executor.inspect(request.execution_id)).status == "paused"
    with pytest.raises(ExecutionNotRunning, match="paused"):
        await asyncio.wait_for(executor.copy_out(request.execution_id, "/file", folder / "copied"), 5)
    for _ in range(2):
        await executor.resume(request.execution_id)
    await executor.pause(request.execution_id)
    # A stop lets it go on first, caller or not.
    await executor.cancel(request.execution_id, grace=60)
    result = await executor.wait(request.execution_id)
    assert (result.status, result.exit_code) == ("cancelled", 5), result


async def test_an_api_that_is_gone_or_refuses_is_told(executor: Executor, rootfs: Path, state: Path) -> None:
    request = job(rootfs, "/bin/sh", "-c", "echo ready; exec sleep 1000")
    await executor.start(request)
    await until(executor, request, b"ready")
    (socket,) = state.glob("executions/*/vm/**/api.sock")
    # The agent has called: nobody else in the guest does.
    at = os.open(socket.parent, os.O_PATH)  # the path of a socket has 107 bytes at most (unix(7))
    try:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(f"/proc/self/fd/{at}/vsock_1024")
    finally:
        os.close(at)
    fault = socket.with_name("fault")
    fault.write_text('{"fault_message": "not today"}')
    with pytest.raises(ApiRefused, match="not today"):
        await executor.pause(request.execution_id)
    fault.unlink()
    socket.rename(socket.with_name("away"))
    with pytest.raises(EngineUnreachable):
        await executor.pause(request.execution_id)
    socket.with_name("away").rename(socket)
    assert (await executor.inspect(request.execution_id)).status == "running"
    await executor.cancel(request.execution_id, grace=0)


async def test_a_machine_of_the_user_s_own_is_its_console(executor: Executor, folder: Path) -> None:
    request = raw(folder, kernel_args="init=/sbin/init", mmds_message={"latest": {"a": 1}}, read_only_root=True)
    await executor.start(request)
    await until(executor, request, b'metadata: {"latest": {"a": 1}}')
    with pytest.raises(NotSupported, match="exec"):
        await executor.exec(request.execution_id, ["true"])
    with pytest.raises(NotSupported, match="copy"):
        await executor.copy_out(request.execution_id, "/file", folder / "copied")
    # Ctrl-Alt-Del, after which this one ends.
    await executor.cancel(request.execution_id, grace=60)
    result = await executor.wait(request.execution_id)
    assert (result.status, result.exit_code) == ("cancelled", None), result
    assert b"console: reboot=k panic=-1 pci=off quiet cryptomgr.notests console=ttyS0 init=/sbin/init" in result.stdout
    assert (folder / "root.ext4").read_bytes() == b"of the user's own"


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
@pytest.mark.parametrize("killer", ["asked", "another"])
async def test_a_machine_of_the_user_s_own_that_is_killed(executor: Executor, folder: Path, killer: str) -> None:
    request = raw(folder)
    await executor.start(request)
    await until(executor, request, b"metadata")
    if killer == "asked":
        await executor.send_signal(request.execution_id, "KILL")
    else:
        info = await executor.inspect(request.execution_id)
        os.kill(child_of(child_of(int(info.engine_ids["shim"]))), signal.SIGKILL)
    result = await asyncio.wait_for(executor.wait(request.execution_id), 60)
    expected = ("signaled", 9) if killer == "asked" else ("engine_lost", None)
    assert (result.status, result.reason, result.signal, result.exit_code) == ("failed", *expected, None), result
    assert (result.usage.cpu_seconds is not None) == (killer == "asked")


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
async def test_what_a_machine_of_the_user_s_own_lacks(executor: Executor, folder: Path) -> None:
    plain = raw(folder)
    names = {info.request.execution_id for info in await executor.list()}
    for fields in (
        {"inputs": [StorageVolume(source=str(folder), target="/in")]},
        {"stdin": b"x"},
        {"environment": {"A": "b"}},
        {"resources": Resources(disk=ByteSize("1GiB"))},
        {"resources": Resources(pids=7)},
        {"network": "user"},
    ):
        with pytest.raises(NotSupported):
            await executor.run(msgspec.structs.replace(plain, **fields))
    with pytest.raises(InvalidRequest, match="whole processors"):
        await executor.run(msgspec.structs.replace(plain, resources=Resources(cpu=0.5)))
    with pytest.raises(InvalidRequest, match="At least 32MiB"):
        await executor.run(msgspec.structs.replace(plain, resources=Resources(memory=ByteSize("8MiB"))))
    assert {info.request.execution_id for info in await executor.list()} == names


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "neither an image"),
        ({"kernel_image": "/boot/vmlinuz"}, "neither an image"),
        ({"kernel_image": "/k", "root_file_system": "/r", "cmd": ["true"]}, "cmd is for an image"),
        ({"image": "alpine", "root_file_system": "/r"}, "for a machine of your own"),
        ({"image": "alpine", "mmds_message": {}}, "for a machine of your own"),
        ({"kernel_image": "k", "root_file_system": "/r"}, "not absolute"),
        ({"image": "alpine", "colour": "red"}, "unknown field"),
    ],
)
def test_params_that_are_no_machine(params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        checked_params(params)
    assert caught.value.mend


@pytest.mark.parametrize("executor", [True], ids=["jailed"], indirect=True)
@pytest.mark.parametrize("killed", ["shim", "keeper", "monitor"])
async def test_nothing_is_left_whoever_is_killed(executor: Executor, rootfs: Path, state: Path, killed: str) -> None:
    request = job(rootfs, "/bin/sh", "-c", "echo ready; exec sleep 1000")
    await executor.start(request)
    await until(executor, request, b"ready")
    info = await executor.inspect(request.execution_id)
    shim = int(info.engine_ids["shim"])
    keeper = child_of(shim)
    monitor = child_of(keeper)
    gone = os.pidfd_open(monitor)
    try:
        os.kill({"shim": shim, "keeper": keeper, "monitor": monitor}[killed], signal.SIGKILL)
        result = await asyncio.wait_for(executor.wait(request.execution_id), 60)
        assert (result.status, result.reason, result.exit_code) == ("failed", "engine_lost", None), result
        await executor.remove(request.execution_id)
        assert await asyncio.to_thread(select.select, [gone], [], [], 60) == ([gone], [], [])
    finally:
        os.close(gone)
    assert not [*state.glob("executions/*/vm")]


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
