"""`dms-shim pack` and `unpack` by themselves: what a stranger's tree or a stranger's tar stream can bring."""

from __future__ import annotations

import io
import os
import random
import resource
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from dms_executor.supervisor import binary

_LIMIT = 60.0
_MEMORY = 64 << 20


def _limits() -> None:
    # So that a tar that asks for much fails for it, and a bug that writes without end ends.
    if "DMS_TEST_BIN" not in os.environ:  # the sanitizers reserve terabytes of addresses for themselves
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MEMORY, _MEMORY))


def _unpack(data: bytes, target: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    argv = [binary.shim_path(), "unpack", *options, str(target)]
    return subprocess.run(argv, input=data, capture_output=True, timeout=_LIMIT, preexec_fn=_limits)


def _pack(path: Path, name: str = "top") -> bytes:
    done = subprocess.run([binary.shim_path(), "pack", name, str(path)], capture_output=True, timeout=_LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    return entry


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    return folder


def _untouched(target: Path) -> bool:
    outside = target.parent / "outside"
    names = sorted(path.name for path in target.parent.iterdir())
    return names == ["outside", "target"] and [path.read_text() for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_form_of_tar_is_read(target: Path, form: int) -> None:
    long = "d" * 90 + "/" + "e" * 90
    data = _tar((_entry(long), b"text"), (_entry("link", tarfile.SYMTYPE, "x" * 99), b""), form=form)
    assert _unpack(data, target).returncode == 0
    assert (target / long).read_text() == "text"
    assert os.readlink(target / "link") == "x" * 99


def test_what_is_packed_is_read_by_other_programs(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / ("n" * 200)).mkdir(parents=True)
    (top / ("n" * 200) / "file").write_text("text")
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"begin")
    with tarfile.open(fileobj=io.BytesIO(_pack(top))) as archive:
        assert sorted(archive.getnames()) == ["top", f"top/{'n' * 200}", f"top/{'n' * 200}/file", "top/sparse"]
        file_in_it = archive.extractfile("top/sparse")
        assert file_in_it is not None
        assert file_in_it.read() == b"begin".ljust(1 << 20, b"\0")


@pytest.mark.parametrize(
    "entries",
    [
        [_entry("../outside/planted")],
        [_entry("a/../../outside/planted")],
        [_entry("link", tarfile.SYMTYPE, "../outside"), _entry("link/planted")],
        [_entry("link", tarfile.SYMTYPE, "../outside/kept"), _entry("link/")],
        [_entry("hard", tarfile.LNKTYPE, "../outside/kept")],
        [_entry("link", tarfile.SYMTYPE, "../outside"), _entry("hard", tarfile.LNKTYPE, "link/kept")],
        [_entry("a"), _entry("a/b")],
        [_entry("a/b"), _entry("a")],
        [_entry("x" * 300)],
    ],
)
def test_what_leads_out_or_cannot_be_is_refused(target: Path, entries: list[tarfile.TarInfo]) -> None:
    done = _unpack(_tar(*((entry, b"") for entry in entries)), target)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error\0")
    assert _untouched(target)


def test_a_file_replaces_a_link_and_writes_nothing_through_it(target: Path) -> None:
    (target / "soft").symlink_to("../outside/kept")
    os.link(target.parent / "outside/kept", target / "hard")
    assert _unpack(_tar((_entry("soft"), b"new"), (_entry("hard"), b"new")), target).returncode == 0
    assert (target / "soft").read_text() == (target / "hard").read_text() == "new"
    assert _untouched(target)


def test_an_absolute_name_lies_in_the_folder(target: Path) -> None:
    assert _unpack(_tar((_entry("/etc/file"), b"text")), target).returncode == 0
    assert (target / "etc/file").read_text() == "text"


def test_devices_and_fifos_are_left_out_and_counted(target: Path) -> None:
    entries = [_entry("null", tarfile.CHRTYPE), _entry("fifo", tarfile.FIFOTYPE), _entry("file")]
    done = _unpack(_tar(*((entry, b"") for entry in entries)), target)
    assert (done.returncode, done.stderr) == (0, b"left-out\x002\0null\0")
    assert [path.name for path in target.iterdir()] == ["file"]


def test_special_bits_go_when_they_shall(target: Path) -> None:
    data = _tar((_entry("file", mode=0o6755), b""), (_entry("folder", tarfile.DIRTYPE, mode=0o3777), b""))
    assert _unpack(data, target, "-s").returncode == 0
    modes = [stat.S_IMODE((target / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o755, 0o1777]
    assert _unpack(data, target).returncode == 0
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o6755


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 700, 1024])
def test_a_stream_that_ends_early_is_an_error(target: Path, cut: int) -> None:
    data = _tar((_entry("file"), b"text" * 100))
    done = _unpack(data[:cut], target)
    assert done.returncode == 1
    assert b"ends in the middle" in done.stderr


def test_a_sparse_file_with_a_lying_map_is_refused(target: Path, tmp_path: Path) -> None:
    file = target.parent / "outside/kept"
    with (tmp_path / "s").open("wb") as sparse:
        sparse.truncate(1 << 20)
        sparse.write(b"x")
    good = _pack(tmp_path / "s")
    (tmp_path / "s").unlink()
    for lie in (b"9\n0\n", b"1\n99999999999\n", b"2\n4096\n4096\n0\n"):
        at = good.index(b"1\n0\n") if b"1\n0\n" in good else good.index(b"2\n0\n")
        assert _unpack(good[:at] + lie + good[at + len(lie) :], target).returncode == 1
    assert file.read_text() == "kept"


def test_broken_tar_streams_break_nothing_else(target: Path, tmp_path: Path) -> None:
    (tmp_path / "t/sub").mkdir(parents=True)
    (tmp_path / "t/sub" / ("n" * 150)).write_bytes(b"data" * 300)
    os.link(tmp_path / "t/sub" / ("n" * 150), tmp_path / "t/hard")
    (tmp_path / "t/soft").symlink_to("../outside")
    with (tmp_path / "t/sparse").open("wb") as sparse:
        sparse.truncate(1 << 20)
        sparse.write(b"x")
    good = _pack(tmp_path / "t")
    subprocess.run(["rm", "-rf", str(tmp_path / "t")], check=True)
    chance = random.Random(7)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 12)):
            at = chance.randrange(len(data))
            data[at] = chance.choice((0, 10, 32, 46, 47, 48, 55, 57, 128, 255, chance.randrange(256)))
        for header in range(0, len(data) - 512, 512):  # half of them get past the sum
            if chance.random() < 0.5 and data[header + 257 : header + 262] == b"ustar":
                data[header + 148 : header + 156] = b" " * 8
                data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
        done = _unpack(bytes(data), target)
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        assert _untouched(target)


@pytest.mark.parametrize(
    "stranger",
    [
        _entry("other"),
        _entry("topmost"),
        _entry("./.ssh/authorized_keys"),
        _entry("other", tarfile.SYMTYPE, "/etc"),
        _entry("other", tarfile.DIRTYPE, mode=0o755),
        _entry("top/link", tarfile.LNKTYPE, "kept"),
        _entry("."),
    ],
    ids=lambda entry: f"{entry.name}-{entry.type.decode()}",
)
def test_nothing_but_what_was_asked_for(target: Path, stranger: tarfile.TarInfo) -> None:
    (target / "kept").write_text("mine")
    (target / "other").write_text("mine, too")
    good = (_entry("top", tarfile.DIRTYPE, mode=0o755), b"")
    done = _unpack(_tar(good, (stranger, b"")), target, "-n", "top")
    assert done.returncode != 0
    assert b"not what was asked for" in done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["kept", "other", "top"]
    assert [path.name for path in (target / "top").iterdir()] == []
    assert (target / "other").read_text() == "mine, too"


def test_what_was_asked_for_comes_whole(target: Path) -> None:
    (target / "kept").write_text("mine")
    entries = (
        (_entry("top", tarfile.DIRTYPE, mode=0o755), b""),
        (_entry("top/file"), b"data"),
        (_entry("./top/again", tarfile.LNKTYPE, "top/file"), b""),
        (_entry("top/link", tarfile.SYMTYPE, "file"), b""),
    )
    done = _unpack(_tar(*entries), target, "-n", "top")
    assert done.returncode == 0, done.stderr
    assert (target / "top/again").read_bytes() == b"data"
    assert _unpack(_tar((_entry("kept"), b"new")), target, "-n", "kept").returncode == 0
    assert (target / "kept").read_bytes() == b"new"
