"""A state folder that cannot be used gives one clear typed error; a damaged one is rebuilt and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, Policy
from dms_executor.errors import StateError, StateTooNew, StateUnwritable
from dms_executor.journal import folder as state_folder
from dms_executor.testing import MemorySpec
from tests.disks import mounted

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def request(execution_id: str, *script: str) -> ExecutionRequest:
    return ExecutionRequest(job_id="j", execution_id=execution_id, engine_spec=MemorySpec(script=list(script)).build())


async def run_one(state: Path, execution_id: str = "one") -> None:
    async with Executor.open(state) as executor:
        await executor.run(request(execution_id, "echo hi", "exit 3"))


async def refused(state: Path, kind: type[StateError]) -> str:
    """What opening the folder says."""
    with pytest.raises(kind) as caught:
        async with Executor.open(state):
            pass
    assert caught.value.mend, caught.value
    return str(caught.value)


async def test_the_folder_and_its_files_are_the_owners_alone(state_dir: Path) -> None:
    old = os.umask(0)
    try:
        await run_one(state_dir)
    finally:
        os.umask(old)
    for path in [state_dir, *state_dir.rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


async def test_a_folder_of_a_newer_release_is_refused(state_dir: Path) -> None:
    await run_one(state_dir)
    with sqlite3.connect(state_dir / "journal.db") as database:
        database.execute("PRAGMA user_version=1000")
    database.close()
    assert "newer" in await refused(state_dir, StateTooNew)


async def test_a_folder_on_a_network_file_system_is_refused(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_folder, "filesystem_type", lambda _path: "nfs4")
    assert "network file system (nfs4)" in await refused(state_dir, StateUnwritable)


@as_root
async def test_a_folder_of_another_user_is_refused(state_dir: Path) -> None:
    state_dir.mkdir()
    os.chown(state_dir, 12345, 12345)
    assert "uid 12345" in await refused(state_dir, StateUnwritable)


async def test_a_file_in_the_folders_place_is_refused(state_dir: Path) -> None:
    state_dir.write_text("")
    await refused(state_dir, StateError)


async def test_a_second_executor_of_the_same_process_is_refused(state_dir: Path) -> None:
    async with Executor.open(state_dir):
        assert "open in this process" in await refused(state_dir, StateError)
    await run_one(state_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=4m,mode=0700") as place:
        yield place


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


@as_root
async def test_a_full_disk_refuses_a_new_execution_and_leaves_nothing_of_it(small_disk: Path) -> None:
    state = small_disk / "state"
    async with Executor.open(state) as executor:
        await executor.run(request("before", "echo kept"))
        filler = await asyncio.to_thread(fill, small_disk)
        with pytest.raises(StateUnwritable) as caught:
            await executor.run(request("during", "echo hi"))
        assert "space" in str(caught.value)
        filler.unlink()
        assert [info.request.execution_id for info in await executor.list()] == ["before"]
        assert (await executor.wait("before")).stdout == b"kept\n"
        assert (await executor.run(request("during", "echo hi"))).stdout == b"hi\n"
    assert len(list((state / "executions").iterdir())) == 2


@as_root
async def test_a_folder_on_a_full_disk_is_refused(small_disk: Path) -> None:
    await asyncio.to_thread(fill, small_disk)
    await refused(small_disk / "state", StateUnwritable)


@as_root
async def test_a_read_only_folder_is_refused(small_disk: Path) -> None:
    await run_one(small_disk / "state")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    await refused(small_disk / "state", StateUnwritable)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    async with Executor.open(small_disk / "state") as executor:
        assert (await executor.wait("one")).exit_code == 3


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty header", "missing"])
async def test_a_damaged_database_is_set_aside_and_rebuilt(state_dir: Path, damage: str) -> None:
    async with Executor.open(state_dir) as executor:
        await executor.run(request("ended", "echo hi", "exit 3"))
        await executor.start(request("alive", "sleep 0.3", "echo late"))
    database = state_dir / "journal.db"
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    whole = database.read_bytes()
    damaged = {"garbage": os.urandom(len(whole)), "truncated": whole[:5000], "empty header": bytes(100) + whole[100:]}
    if damage == "missing":
        database.unlink()
    else:
        database.write_bytes(damaged[damage])
    async with Executor.open(state_dir) as executor:
        ended, alive = await executor.wait("ended"), await executor.wait("alive")
        assert (ended.exit_code, ended.stdout, ended.status) == (3, b"hi\n", ExecutionStatus.FAILED)
        assert (alive.exit_code, alive.stdout) == (0, b"late\n")
        assert [info.request.execution_id for info in await executor.list()] == ["ended", "alive"]
    if damage != "missing":
        assert list(state_dir.glob("journal.db.damaged-*"))


IN_A_PID_NAMESPACE = """
import asyncio, sys
from dms_executor import Executor
async def main():
    async with Executor.open(sys.argv[1]):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@as_root
async def test_a_folder_in_use_from_another_pid_namespace_is_refused(state_dir: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", IN_A_PID_NAMESPACE, str(state_dir)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None:
        raise RuntimeError("no pipe")
    assert await process.stdout.readline() == b"open\n"
    assert "pid namespace" in await refused(state_dir, StateError)
    await process.communicate(b"")
    await run_one(state_dir)


async def test_secrets_are_never_stored(state_dir: Path) -> None:
    secret = "correct horse battery staple"
    async with Executor.open(state_dir, policy=Policy()) as executor:
        spec = MemorySpec(script=["env TOKEN", "sleep 0.1"]).build()
        result = await executor.run(
            ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, secret_environment={"TOKEN": secret})
        )
        assert result.stdout == f"{secret}\n".encode()
        assert (await executor.inspect("e")).request.secret_environment == {}
    stored = [path for path in state_dir.rglob("*") if path.is_file() and path.parent.name != "log"]
    assert [path for path in stored if secret.encode() in path.read_bytes()] == []
