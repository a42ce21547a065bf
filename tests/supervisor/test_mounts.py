"""The room: what the shim mounts where nobody else sees it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import Bind, Loop, Overlay, ShimSpec
from dms_executor.supervisor.shim import create

from .conftest import gone

Job = Callable[..., ShimSpec]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def room(tmp_path: Path) -> Path:
    made = tmp_path / "room"
    made.mkdir()
    return made


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], int]]:
    fds: list[int] = []

    def open_path(path: Path) -> int:
        fds.append(os.open(path, os.O_PATH))
        return fds[-1]

    yield open_path
    for fd in fds:
        os.close(fd)


async def run(folder: Path, spec: ShimSpec) -> None:
    shim = await create(folder, spec)
    await shim.go()
    assert await shim.ended()


async def test_an_overlay_is_written_to_its_upper_and_seen_by_nobody_else(
    folder: Path, room: Path, job: Job, opened: Any, tmp_path: Path, read_log: Any
) -> None:
    lower, layer = tmp_path / "lower, with: signs", tmp_path / "layer"
    for made in (lower, layer / "upper", layer / "work"):
        made.mkdir(parents=True)
    (lower / "given").write_text("from below\n")
    mounts = [
        Bind(fd=opened(lower), target="lower"),
        Bind(fd=opened(layer), target="layer", read_only=False),
        Overlay(target="a/root", lower="lower", upper="layer/upper", work="layer/work"),
    ]
    script = f"cd {room}/a/root; cat given; echo new > made; grep -c {room} /proc/self/mounts"
    await run(folder, job("sh", "-c", script, room=str(room), mounts=mounts))
    assert read_log(folder).data(1) == b"from below\n4\n"
    assert (layer / "upper" / "made").read_text() == "new\n"
    assert os.listdir(lower) == ["given"]
    assert os.listdir(room) == []


async def test_files_and_flags_of_binds(
    folder: Path, room: Path, job: Job, opened: Any, tmp_path: Path, read_log: Any
) -> None:
    single, tree = tmp_path / "single", tmp_path / "tree"
    single.write_text("one file\n")
    tree.mkdir()
    mounts = [
        Bind(fd=opened(single), target="x/single"),
        Bind(fd=opened(tree), target="tree", read_only=False, restricted=False),
    ]
    script = "cat x/single; echo no > x/single || echo refused; touch tree/made; stat -c %a . x"
    await run(folder, job("sh", "-c", f"cd {room}; {script}", room=str(room), mounts=mounts))
    assert read_log(folder).data(1) == b"one file\nrefused\n711\n755\n"
    assert (tree / "made").exists()


@pytest.mark.parametrize("target", ["../escape", "/absolute", "a//b", ".", "tree/link/below"])
async def test_a_target_cannot_leave_the_room(
    folder: Path, room: Path, job: Job, opened: Any, tmp_path: Path, target: str
) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (tree / "link").symlink_to(outside)
    mounts = [Bind(fd=opened(tree), target="tree", read_only=False), Bind(fd=opened(tree), target=target)]
    with pytest.raises(StartFailed, match="cannot mount"):
        await create(folder, job("true", room=str(room), mounts=mounts))
    assert os.listdir(outside) == []
    assert not (tmp_path / "escape").exists()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    if shutil.which("mke2fs") is None:
        pytest.skip("needs mke2fs")
    path = tmp_path / "image"
    path.write_bytes(b"")
    os.truncate(path, 4 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


async def test_an_image_is_mounted_and_its_loop_device_freed(
    folder: Path, room: Path, job: Job, image: int, tmp_path: Path, read_log: Any
) -> None:
    spec = job("sh", "-c", f"ls {room}/disk", room=str(room), mounts=[Loop(fd=image, target="disk")])
    shim = await create(folder, spec)
    await shim.go()
    assert await shim.ended()
    assert await asyncio.to_thread(gone, shim.pid)
    assert read_log(folder).data(1) == b"lost+found\n"
    assert str(tmp_path / "image") not in await asyncio.to_thread(_backing_files)


def _backing_files() -> list[str]:
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


@pytest.fixture
def mounted(room: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", room], check=True)
    (room / "mark").touch()
    yield room
    subprocess.run(["umount", "-l", room], check=True)


async def test_a_mount_can_be_taken_away_for_the_job_alone(
    folder: Path, mounted: Path, job: Job, read_log: Any
) -> None:
    await run(folder, job("ls", str(mounted), umounts=[str(mounted)]))
    assert read_log(folder).data(1) == b""
    assert (mounted / "mark").exists()
