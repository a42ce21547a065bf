"""Users and groups by the image's own files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor.errors import StartFailed
from dms_executor.images.users import User, resolve_user

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad:x:no:1::/:/\n# c:x:5:5::/:/\nshort:x:1\n"
GROUP = "root:x:0:\napp:x:1001:\nextra:x:1002:other,app\nmore:x:1003:app\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """An opened root tree with users."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(home="/root")),
        ("app", User(uid=1000, gid=1001, groups=[1002, 1003], home="/home/app")),
        ("1000", User(uid=1000, gid=1001, groups=[1002, 1003], home="/home/app")),
        ("app:extra", User(uid=1000, gid=1002, home="/home/app")),
        ("app:7", User(uid=1000, gid=7, home="/home/app")),
        ("5", User(uid=5)),
        ("5:6", User(uid=5, gid=6)),
    ],
)
def test_users(root: int, text: str, user: User) -> None:
    assert resolve_user(root, text) == user


@pytest.mark.parametrize("text", ["nosuch", "app:nosuch", "bad", "2147483648", "1:2147483648", "-1", "c", "9" * 5000])
def test_what_does_not_exist_is_told(root: int, text: str) -> None:
    with pytest.raises(StartFailed):
        resolve_user(root, text)


def test_a_root_without_users(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    assert resolve_user(fd, "") == User()
    assert resolve_user(fd, "7:8") == User(uid=7, gid=8)
    os.close(fd)


def test_the_hosts_users_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").symlink_to("/../../../../etc/passwd")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with pytest.raises(StartFailed):
        resolve_user(fd, "daemon")
    os.close(fd)
