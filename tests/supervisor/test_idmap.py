"""Ids of the job's own on the shim's mounts and streams, and the descriptor that holds their range."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import StartFailed
from dms_executor.oci.userns import problem_of_host
from dms_executor.supervisor import Bind, Overlay, ShimSpec
from dms_executor.supervisor.shim import create

from .test_mounts import opened, room, run

__all__ = ["opened", "room"]

Job = Callable[..., ShimSpec]
FIRST = 0x7FFD0000  # within the ids that the kernel knows, and past what the engine gives

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(bool(problem_of_host()), reason=problem_of_host()),
]


async def test_owners_are_mapped_and_the_upper_layer_is_the_jobs(
    folder: Path, room: Path, job: Job, opened: Any, tmp_path: Path, read_log: Any
) -> None:
    lower, layer = tmp_path / "lower", tmp_path / "layer"
    for made in (lower, layer / "upper" / "dev", layer / "work"):
        made.mkdir(parents=True)
    (lower / "file").touch()
    os.chown(lower / "file", 1000, 1001)
    mounts = [
        Bind(fd=opened(lower), target="lower", recursive=False, idmapped=True),
        Bind(fd=opened(layer), target="layer", read_only=False, recursive=False),
        Bind(fd=opened(lower), target="plain"),
        Overlay(target="root", lower="lower", upper="layer/upper", work="layer/work"),
    ]
    script = f"cd {room}; stat -Lc %u:%g lower/file root/file root root/dev plain/file /proc/self/fd/1"
    await run(folder, job("sh", "-c", script, room=str(room), mounts=mounts, ids=(FIRST, 65536)))
    mine, theirs = f"{FIRST}:{FIRST}", f"{FIRST + 1000}:{FIRST + 1001}"
    assert read_log(folder).data(1).decode().split() == [theirs, theirs, mine, mine, "1000:1001", mine]
    assert (lower / "file").stat().st_uid == 1000


async def test_a_file_system_without_id_mapped_mounts_is_told(folder: Path, room: Path, job: Job, opened: Any) -> None:
    mounts = [Bind(fd=opened(Path("/proc/sys")), target="sys", idmapped=True)]
    with pytest.raises(StartFailed, match="cannot id-map sys"):
        await create(folder, job("true", room=str(room), mounts=mounts, ids=(FIRST, 65536)))


@pytest.mark.parametrize("ids", [(0, 65536), (65535, 1), (0xFFFFFFFF, 1), (0xFFFF0000, 0x10000), (FIRST, 0)])
async def test_ids_of_the_hosts_own_are_refused(folder: Path, job: Job, ids: tuple[int, int]) -> None:
    with pytest.raises(StartFailed, match="not valid"):
        await create(folder, job("true", ids=ids))


async def test_an_id_mapped_mount_needs_ids(folder: Path, room: Path, job: Job, opened: Any) -> None:
    mounts = [Bind(fd=opened(Path("/usr")), target="usr", idmapped=True)]
    with pytest.raises(StartFailed, match="without IDMAP"):
        await create(folder, job("true", room=str(room), mounts=mounts))


async def test_the_lock_is_held_until_the_shim_ends(folder: Path, job: Job, tmp_path: Path) -> None:
    range_fd = os.open(tmp_path / "range", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(range_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    shim = await create(folder, job("sleep", "0.2", hold=range_fd))
    os.close(range_fd)
    again = os.open(tmp_path / "range", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await shim.go()
    assert await shim.ended()
    fcntl.flock(again, fcntl.LOCK_EX)  # only the end of the process lets it go, a moment later
    os.close(again)


async def test_the_hosts_own_dev_null_is_not_given_to_the_job(folder: Path, job: Job, read_log: Any) -> None:
    before = Path("/dev/null").stat()
    script = f"{shutil.which('chown')} {FIRST} /proc/self/fd/0 2>&1; stat -Lc %u /proc/self/fd/0"
    await run(folder, job("sh", "-c", script, ids=(FIRST, 65536)))
    assert b"Read-only file system" in read_log(folder).data(1)
    after = Path("/dev/null").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
