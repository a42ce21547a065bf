"""Removing what a stranger made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dms_executor.trees import remove_tree


def test_a_tree_deeper_than_any_limit(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    fd = os.open(tmp_path / "tree", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(folder, "tree")
    remove_tree(folder, "tree")
    os.close(folder)
    assert os.listdir(tmp_path) == []


def test_links_are_not_followed_and_odd_names_go(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "link").symlink_to(victim)
    (tree / "sub" / "link").symlink_to(victim)
    (tree / os.fsdecode(b"\xff\n")).mkdir()
    os.mkfifo(tree / "fifo")
    (tree / "sub").chmod(0)
    (tmp_path / "tree.1").mkdir()
    (tmp_path / "tree.1" / "left").touch()
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(folder, "tree")
    os.close(folder)
    assert (victim / "kept").exists()
    assert sorted(os.listdir(tmp_path)) == ["tree.1", "victim"]


def test_two_that_remove_the_same_tree_at_once(tmp_path: Path) -> None:
    for number in range(15):
        name = f"tree{number}"
        for first in range(6):
            for second in range(6):
                (tmp_path / name / str(first) / str(second)).mkdir(parents=True)
                (tmp_path / name / str(first) / str(second) / "file").touch()
                (tmp_path / name / f"file{first}{second}").touch()
        # Descriptors of their own, as two processes have.
        folders = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(remove_tree, folders, [name] * 3))
        for folder in folders:
            os.close(folder)
        assert os.listdir(tmp_path) == []
