"""Files that make their user somebody else: none is left where a job could write."""

from __future__ import annotations

import os
import stat
import struct
import threading
from pathlib import Path

import pytest

from dms_executor.setid import strip_setid
from dms_executor.trees import remove_tree

_NET_ADMIN = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)  # vfs_cap_data of linux/capability.h, effective


def strip(path: Path) -> int:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return strip_setid(fd)
    finally:
        os.close(fd)


def setid(path: Path, mode: int = 0o6755) -> Path:
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_bits_go_and_the_rest_of_the_mode_stays(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files = {
        setid(tmp_path / "both"): 0o755,
        setid(tmp_path / "a" / "user", 0o4711): 0o711,
        setid(tmp_path / "a" / "b" / "group", 0o2640): 0o640,
        setid(tmp_path / "a" / "b" / "plain", 0o755): 0o755,
    }
    (tmp_path / "a" / "b").chmod(0o2775)  # only the group of what is made in it
    assert strip(tmp_path) == 3
    assert {path: mode(path) for path in files} == files
    assert mode(tmp_path / "a" / "b") == 0o2775
    assert strip(tmp_path) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file capabilities")
def test_capabilities_go(tmp_path: Path) -> None:
    file = setid(tmp_path / "file", 0o755)
    os.setxattr(file, "security.capability", _NET_ADMIN)
    assert strip(tmp_path) == 1
    assert "security.capability" not in os.listxattr(file)
    assert file.read_bytes() == b"#!/bin/sh\n"


def test_a_single_file(tmp_path: Path) -> None:
    assert strip(setid(tmp_path / "file")) == 1
    assert mode(tmp_path / "file") == 0o755


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    file = setid(outside / "file")
    left = tmp_path / "left"
    left.mkdir()
    (left / "file").symlink_to(file)
    (left / "folder").symlink_to(outside)
    (left / "self").symlink_to("self")
    assert strip(left) == 0
    assert mode(file) == 0o6755


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").chmod(0o4666)
    setid(tmp_path / "file")
    assert strip(tmp_path) == 1


def test_no_depth_hides_it(tmp_path: Path) -> None:
    # Deeper than a path may be long, and than descriptors can be held.
    at = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1200):
        os.mkdir("deep", dir_fd=at)
        inner = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    fd = os.open("file", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=at)
    os.fchmod(fd, 0o4755)
    before = len(os.listdir("/proc/self/fd"))
    assert strip(tmp_path) == 1
    assert len(os.listdir("/proc/self/fd")) == before
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o755
    os.close(fd)
    os.close(at)
    above = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(above, "deep")  # pytest cannot
    os.close(above)


def test_folders_that_are_moved_all_the_time(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    file = setid(outside / "file")
    given = tmp_path / "given"
    (given / "a").mkdir(parents=True)
    (given / "a" / "inner").mkdir()
    done = threading.Event()
    mover = threading.Thread(target=_move, args=(given / "a" / "inner", outside / "inner", done))
    mover.start()
    try:
        for _ in range(200):
            try:
                strip(given)
            except OSError as error:
                assert "moved" in str(error)  # noqa: PT017, that it may be raised is the point
    finally:
        done.set()
        mover.join()
    assert mode(file) == 0o6755


def _move(here: Path, there: Path, done: threading.Event) -> None:
    while not done.is_set():
        here.rename(there)
        there.rename(here)
