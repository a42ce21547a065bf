"""A folder as a read-only block image."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable, ResourcesUnavailable, StartFailed
from dms_executor.microvm import rootimage

pytestmark = pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs: apt-get install erofs-utils")

# cap_net_raw+ep, as setcap(8) writes it
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def make_tree(folder: Path) -> Path:
    """All that an image may hold that a plain copy loses."""
    (folder / "etc/empty").mkdir(parents=True)
    (folder / "etc/file").write_bytes(b"content\n" * 5000)
    (folder / "etc/file").chmod(0o4751)
    os.link(folder / "etc/file", folder / "link")
    (folder / "symlink").symlink_to("../../outside")
    (folder / os.fsdecode(b"\xff name\n")).touch(0o600)
    os.mkfifo(folder / "fifo", 0o622)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    os.setxattr(folder / "link", "user.comment", b"\0binary")
    (folder / "etc").chmod(0o1777)
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
        os.mknod(folder / "whiteout", 0o020000, os.makedev(0, 0))
        os.chown(folder / "etc/file", 1000, 70000)
        (folder / "etc/file").chmod(0o4751)
        os.chown(folder / "symlink", 5, 6, follow_symlinks=False)
        os.setxattr(folder / "etc/file", "security.capability", CAPABILITY)
    os.utime(folder / "etc/empty", (981169445, 981169445))
    return folder


def seen(folder: Path) -> dict[Path, tuple[object, ...]]:
    """What a job could tell of each file; hard links by the first of their names."""
    found, first = {}, dict[int, Path]()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        relative = path.relative_to(folder)
        link = path.readlink() if stat.S_ISLNK(status.st_mode) else None
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        same = None if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, relative)
        about = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), status.st_rdev)
        found[relative] = (*about, link, data, xattrs, same)
    return found


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    done = subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", image, at], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this host mounts no erofs: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a block image")
async def test_a_guest_sees_what_was_there(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    image = await rootimage.build(tree, tmp_path / "cache", "key")
    assert image == tmp_path / "cache/key"
    with mounted(image, tmp_path / "mount") as root:
        assert seen(root) == seen(tree)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a block image")
async def test_holes_take_no_room(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/sparse").open("wb") as file:
        file.truncate(150 << 20)
        file.seek(100 << 20)
        file.write(b"here")
    image = await rootimage.build(tmp_path / "tree", tmp_path / "cache", "key")
    assert image.stat().st_size < 8 << 20
    with mounted(image, tmp_path / "mount") as root, (root / "sparse").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == 150 << 20
        file.seek((100 << 20) - 3)
        assert file.read(10) == b"\0\0\0here\0\0\0"


_BUILDS = """
import asyncio, sys
from pathlib import Path
from dms_executor.microvm import rootimage

async def main(tree, cache):
    await asyncio.gather(*(rootimage.build(Path(tree), Path(cache), "key") for _ in range(3)))
    print((Path(cache) / "key").stat().st_ino)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_whoever_comes_first_makes_it_for_all(tmp_path: Path) -> None:
    tree, cache = make_tree(tmp_path / "tree"), tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDS, str(tree), str(cache)]
    begun = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [await asyncio.to_thread(process.communicate, timeout=60) for process in begun]
    assert [process.returncode for process in begun] == [0, 0]
    assert {out for out, _ in ended} == {f"{(cache / 'key').stat().st_ino}\n"}
    assert os.listdir(cache) == ["key"]


async def test_what_a_dead_maker_left_is_made_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "key.making").write_bytes(b"\xff" * (8 << 20))
    image = await rootimage.build(make_tree(tmp_path / "tree"), cache, "key")
    assert image.read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"  # EROFS_SUPER_MAGIC_V1, little-endian
    assert image.stat().st_size < 8 << 20
    assert os.listdir(cache) == ["key"]


async def test_who_leaves_leaves_nothing_and_another_makes_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    began = asyncio.Event()

    def slowly(argv: object) -> list[str]:
        loop.call_soon_threadsafe(began.set)
        return ["/bin/sleep", "100"]

    loop = asyncio.get_running_loop()
    leaves = asyncio.create_task(rootimage.build(tree, tmp_path / "cache", "key", inside=slowly))
    await began.wait()
    waits = asyncio.create_task(rootimage.build(tree, tmp_path / "cache", "key"))
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    await waits
    assert os.listdir(tmp_path / "cache") == ["key"]


async def test_a_tree_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="absent"):
        await rootimage.build(tmp_path / "absent", tmp_path / "cache", "key")
    assert os.listdir(tmp_path / "cache") == []
    with pytest.raises(StartFailed, match=r"did not end within 0\.2 s"):
        await rootimage.build(
            make_tree(tmp_path / "tree"), tmp_path / "cache", "key", deadline=0.2, inside=lambda _: ["/bin/sleep", "9"]
        )
    assert os.listdir(tmp_path / "cache") == []


async def test_a_full_disk(tmp_path: Path) -> None:
    full = ["/bin/sh", "-c", "echo 'write failed: No space left on device' >&2; exit 1"]
    with pytest.raises(ResourcesUnavailable, match="Free space"):
        await rootimage.build(make_tree(tmp_path / "tree"), tmp_path / "cache", "key", inside=lambda _: full)
    (tmp_path / "file").touch()
    with pytest.raises(ResourcesUnavailable, match="File exists"):
        await rootimage.build(tmp_path / "tree", tmp_path / "file", "key")


async def test_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dms_executor.images.programs._SEARCHED", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="apt-get install erofs-utils"):
        await rootimage.build(make_tree(tmp_path / "tree"), tmp_path / "cache", "key")


async def test_a_lent_image_outlives_its_collection(tmp_path: Path) -> None:
    tree, cache, place = make_tree(tmp_path / "tree"), tmp_path / "cache", tmp_path / "root"
    await rootimage.lend(tree, cache, "key", place)
    await rootimage.lend(tree, cache, "key", place)
    await rootimage.build(tree, cache, "other")
    (cache / "another.making").touch()
    assert await rootimage.collect(cache, age=3600) == 0
    assert sorted(os.listdir(cache)) == ["key", "other"]
    assert await rootimage.collect(cache, age=0) > 0
    assert os.listdir(cache) == ["key"]  # it is in use
    (cache / "key").unlink()
    assert place.stat().st_size > 0
    await rootimage.lend(tree, cache, "key", tmp_path / "second")
    place.unlink()
    (tmp_path / "second").unlink()
    assert await rootimage.collect(cache, age=0) > 0
    assert os.listdir(cache) == []


async def test_a_folder_that_changes_has_another_fingerprint(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    prints = {first := await rootimage.fingerprint(tree)}
    assert await rootimage.fingerprint(tree) == first
    (tree / "etc/file").write_bytes(b"contents" * 5000)
    prints.add(await rootimage.fingerprint(tree))
    (tree / "link").chmod(0o600)
    prints.add(await rootimage.fingerprint(tree))
    (tree / "fifo").rename(tree / "pipe")
    prints.add(await rootimage.fingerprint(tree))
    (tree / "pipe").rename(tree / "fifo")
    prints.add(await rootimage.fingerprint(tree))
    assert len(prints) == 5
