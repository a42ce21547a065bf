"""`unpack -t`: what comes in several attempts is seen once it is whole, and as the last of them has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dms_executor.supervisor import binary, files

_LIMIT = 60.0
# As in a pod: its root may do no more than the modes of its files say.
_AS_IN_A_POD = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"] if os.geteuid() == 0 else []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def _packed(path: Path) -> bytes:
    done = subprocess.run([binary.shim_path(), "pack", "top", str(path)], capture_output=True, timeout=_LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _begun(target: Path, attempt: int) -> subprocess.Popen[bytes]:
    words = files.words_of_unpack(os.fsencode(target), only=b"top", attempt=attempt)
    return subprocess.Popen(
        [*_AS_IN_A_POD, binary.shim_path(), "unpack", *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _unpacked(data: bytes, target: Path, attempt: int) -> int:
    process = _begun(target, attempt)
    process.communicate(data, timeout=_LIMIT)
    return process.returncode


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_breaks_off_is_not_seen_and_leaves_nothing_to_the_next(tmp_path: Path, target: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("kept", "gone"):
        (tree / name / "deep").mkdir(parents=True)
        (tree / name / "deep/file").write_text(name)
        (tree / name / "deep").chmod(0o500)
        (tree / name).chmod(0o300 if os.geteuid() == 0 else 0o700)
    tree.chmod(0o500)
    data = _packed(tree)
    assert _unpacked(data[: len(data) - 1024], target, 1) != 0  # but for its end
    assert not (target / "top").exists()
    assert "1/top/gone/deep/file" in _names(target)
    tree.chmod(0o700)
    (tree / "gone").rename(tmp_path / "gone")
    (tree / "kept").rename(tree / "new")
    tree.chmod(0o500)
    assert _unpacked(_packed(tree), target, 2) == 0
    assert _names(target) == ["top", "top/new", "top/new/deep", "top/new/deep/file"]
    assert [path.stat().st_mode & 0o777 for path in (target / "top", target / "top/new/deep")] == [0o500, 0o500]


def test_one_whose_answer_was_lost_gives_way_to_the_next(tmp_path: Path, target: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/first").write_text("1")
    (tmp_path / "one").chmod(0o500)
    (tmp_path / "two").write_text("a file by now")
    assert _unpacked(_packed(tmp_path / "one"), target, 1) == 0
    assert _unpacked(_packed(tmp_path / "two"), target, 2) == 0
    assert (target / "top").read_text() == "a file by now"
    assert _unpacked(_packed(tmp_path / "one"), target, 3) == 0
    assert _names(target) == ["top", "top/first"]


def test_a_former_one_that_goes_on_later_changes_nothing(tmp_path: Path, target: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/file").write_bytes(name.encode() + bytes(1 << 20))
    data = _packed(tmp_path / "old")
    former = _begun(target, 1)
    assert former.stdin is not None
    former.stdin.write(data[: 1 << 20])
    former.stdin.flush()
    assert _unpacked(_packed(tmp_path / "new"), target, 2) == 0
    former.communicate(data[1 << 20 :], timeout=_LIMIT)
    assert former.returncode != 0
    assert _names(target) == ["top", "top/deep", "top/deep/file"]
    assert (target / "top/deep/file").read_bytes().startswith(b"new")


def test_a_late_one_takes_nothing_from_those_after_it(tmp_path: Path, target: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_text("1")
    data = _packed(tmp_path / "one")
    later = _begun(target, 2)
    assert later.stdin is not None
    later.stdin.write(data[:1536])  # as far as the name of its file
    later.stdin.flush()
    while not (target / "2/top").exists():
        assert later.poll() is None
    assert _unpacked(b"", target, 1) != 0
    later.communicate(data[1536:], timeout=_LIMIT)
    assert later.returncode == 0
    assert (target / "top/file").read_text() == "1"
