"""A folder as a read-only block image."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dms_executor.errors import ResourcesUnavailable, StartFailed
from dms_executor.microvm import rootimage
from dms_executor.trees import remove_tree

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a block image")

DEPTH = 1100  # of names that are longer together than PATH_MAX

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
    # Path.rglob of Python 3.11.2 fails on a link whose target's name is too long.
    for path in sorted(Path(level, name) for level, folders, files in os.walk(folder) for name in folders + files):
        status = path.lstat()
        relative = path.relative_to(folder)
        link = path.readlink() if stat.S_ISLNK(status.st_mode) else None
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        same = None if stat.S_ISDIR(status.st_mode) else first.setdefault(status.st_ino, relative)
        about = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev)
        found[relative] = (*about, link, data, xattrs, same)
    return found


def exchange(one: Path, two: Path) -> None:
    """Both names at once: renameat2(2), RENAME_EXCHANGE."""
    ctypes.CDLL(None).renameat2(-100, os.fsencode(one), -100, os.fsencode(two), 2)


def moved_to(fd: int, name: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    """Removed here, since pytest does not go as deep."""
    (tmp_path / "deep").mkdir()
    fd = os.open(tmp_path / "deep", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEPTH):
        os.mkdir("deep", dir_fd=fd)
        fd = moved_to(fd, "deep")
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    yield tmp_path / "deep"
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(fd, "deep")
    os.close(fd)


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


@only_root
async def test_a_guest_sees_what_was_there(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    image = await rootimage.build(tree, tmp_path / "cache", "key")
    assert image == tmp_path / "cache/key"
    with mounted(image, tmp_path / "mount") as root:
        assert seen(root) == seen(tree)


@only_root
async def test_holes_take_no_room(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"here")
    image = await rootimage.build(tmp_path / "tree", tmp_path / "cache", "key")
    assert image.stat().st_blocks * 512 < 1 << 20
    with mounted(image, tmp_path / "mount") as root, (root / "sparse").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == 1 << 40
        file.seek((1 << 39) - 3)
        assert file.read(10) == b"\0\0\0here\0\0\0"


@only_root
async def test_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"data" * 5000)
    image = await rootimage.build(tmp_path / "input", tmp_path / "cache", "key")
    with mounted(image, tmp_path / "mount") as root:
        assert os.listdir(root) == ["file"]
        assert (root / "file").read_bytes() == b"data" * 5000
        assert root.stat().st_mode == 0o040755


@only_root
async def test_folders_and_attributes_of_every_size(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for count in (0, 1, 130, 150, 900):
        (tree / f"folder {count}").mkdir()
        for number in range(count):
            (tree / f"folder {count}" / f"a file of number {number}").write_bytes(b"x" * (number * 37 % 9000))
    for size in (0, 1, 4063, 4064, 4065, 4095, 4096, 4097, 8192, 300_001):
        (tree / f"file {size}").write_bytes(os.urandom(size))
        os.setxattr(tree / f"file {size}", "user.small", b"x" * (size % 61))
        if size < 4096:
            (tree / f"link {size}").symlink_to("l" * (size or 1))
    (tree / ("n" * 255)).touch()
    os.setxattr(tree, "user.large", os.urandom(2500))
    with mounted(await rootimage.build(tree, tmp_path / "cache", "key"), tmp_path / "mount") as root:
        assert seen(root) == seen(tree)
        assert os.getxattr(root, "user.large") == os.getxattr(tree, "user.large")
        assert not (root / "folder 900/a file of number 900").exists()


@only_root
async def test_a_tree_deeper_than_any_path(tmp_path: Path, deep_tree: Path) -> None:
    with mounted(await rootimage.build(deep_tree, tmp_path / "cache", "key"), tmp_path / "mount") as root:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(DEPTH):
            fd = moved_to(fd, "deep")
        assert os.listdir(fd) == ["last"]
        os.close(fd)


async def test_nothing_outside_gets_in_while_names_are_swapped(tmp_path: Path) -> None:
    """What a job that can write to an input may try: a symlink, or a device, where a file or a folder was."""
    secret, tree = tmp_path / "secret", tmp_path / "tree"
    secret.mkdir()
    (secret / "file").write_bytes(b"SECRET" * 1000)
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"public" * 1000)
    (tree / "file").write_bytes(b"public" * 1000)
    (tree / "other").symlink_to(secret)
    (tree / "another").symlink_to(secret / "file")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, two in (("folder", "other"), ("file", "another")):
                exchange(tree / one, tree / two)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(8):
            image = await rootimage.build(tree, tmp_path / "cache", f"{number}")
            assert b"SECRET" not in image.read_bytes()
    finally:
        stop.set()
        swapping.join()


async def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    first = await rootimage.build(tree, tmp_path / "cache", "first")
    second = await rootimage.build(tree, tmp_path / "cache", "second")
    assert first.read_bytes() == second.read_bytes()


_BUILDS = """
import asyncio, sys
from pathlib import Path
from dms_executor.microvm import rootimage
from dms_executor.trees import remove_tree

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
    full = ["/bin/sh", "-c", 'exec "$@" 0<>/dev/full', "sh"]
    with pytest.raises(ResourcesUnavailable, match="Free space"):
        await rootimage.build(
            make_tree(tmp_path / "tree"), tmp_path / "cache", "key", inside=lambda argv: [*full, *argv]
        )
    (tmp_path / "file").touch()
    with pytest.raises(ResourcesUnavailable, match="File exists"):
        await rootimage.build(tmp_path / "tree", tmp_path / "file", "key")


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
