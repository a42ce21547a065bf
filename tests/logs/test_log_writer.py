"""The writer: segments, cap, crash, lock, full disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_executor.logs import LogWriter, check_log, drop_log, log_size, read_tail

from .log_model import kept, write

STREAMS = st.sampled_from(["stdout", "stderr"])
ENTRIES = st.lists(st.tuples(STREAMS, st.integers(0, 9), st.binary(min_size=1, max_size=400)), max_size=40)


@given(entries=ENTRIES, cap=st.integers(1024, 6000), segment=st.integers(0, 2000), n=st.integers(0, 3000))
@settings(max_examples=150, deadline=None)
def test_log_is_what_was_written_less_the_oldest(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int, bytes]], cap: int, segment: int, n: int
) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder, entries, cap=cap, segment=segment, end=True)
    summary = check_log(folder, cap=cap)
    found = kept(folder)
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for name, _, data in entries if name == stream)
        data = b"".join(entry[2] for entry in found if entry[0] == stream)
        lost = sum(entry[2] for entry in found if entry[0] == "gap" and entry[1] == stream)
        assert whole[lost:] == data
        assert summary.lost[stream] == lost
        assert read_tail(folder, stream, n) == (data[len(data) - min(n, len(data)) :], len(whole) > min(n, len(data)))


@given(entries=ENTRIES, again=ENTRIES, torn=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_log_goes_on_after_a_crash(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, int, bytes]],
    again: list[tuple[str, int, bytes]],
    torn: int,
) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder, [*entries, ("stdout", 1, b"whole")], cap=1 << 20, segment=900)
    newest = max((folder / "log").glob("0*"))
    with newest.open("ab") as file:
        file.write((b"\x64\0\0\0\1\0\0\0" + bytes(8) + b"torn" * 9)[:torn])
    write(folder, again, cap=1 << 20, segment=900, end=True)
    check_log(folder)
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for name, _, data in [*entries, ("stdout", 1, b"whole"), *again] if name == stream)
        assert b"".join(entry[2] for entry in kept(folder) if entry[0] == stream) == whole


def test_torn_entry_at_every_byte(folder: Path) -> None:
    write(folder, [("stdout", 1, b"first\n"), ("stderr", 2, b"second, and torn")])
    segment = folder / "log" / "0000000001"
    whole = segment.read_bytes()
    begins = len(whole) - 32
    for cut in range(begins, len(whole)):
        segment.write_bytes(whole[:cut])
        there = whole[begins + 16 : cut]
        assert kept(folder) == [("stdout", 1, b"first\n")]
        assert kept(folder, final=True) == [("stdout", 1, b"first\n")] + ([("stderr", 2, there)] if there else [])
        assert read_tail(folder, "stderr", 100) == (there, False)
        LogWriter.open(folder, 1 << 30, 1 << 20).close()
        assert segment.read_bytes() == whole[:begins]


def test_second_writer_is_kept_out(folder: Path) -> None:
    with LogWriter.open(folder, 1 << 20, 1 << 18), pytest.raises(BlockingIOError):
        LogWriter.open(folder, 1 << 20, 1 << 18)
    LogWriter.open(folder, 1 << 20, 1 << 18).close()


def test_cursor_survives_a_crash_with_what_came_after_it(folder: Path) -> None:
    with LogWriter.open(folder, 1 << 20, 1000) as writer:
        assert writer.last_cursor() is None
        writer.write("stdout", 1, b"a" * 700)
        writer.cursor(b"here")
        writer.write("stdout", 1, b"b" * 700)
        writer.write("stderr", 1, b"c")
    with LogWriter.open(folder, 1 << 20, 1000) as writer:
        assert writer.last_cursor() == b"here"
        assert writer.after_cursor() == {"stdout": 700, "stderr": 1}


def test_cursor_is_carried_into_new_segments(folder: Path) -> None:
    with LogWriter.open(folder, 1200, 300) as writer:
        for number in range(50):
            writer.write("stdout", 1, b"x" * 200)
            writer.cursor(b"%d" % number)
    with LogWriter.open(folder, 1200, 300) as writer:
        assert (writer.last_cursor(), writer.after_cursor()) == (b"49", {"stdout": 0, "stderr": 0})
    check_log(folder, cap=1200)


def test_nothing_follows_the_end_mark(folder: Path) -> None:
    write(folder, [("stdout", 1, b"x")], end=True)
    with LogWriter.open(folder, 1 << 20, 1 << 18) as writer:
        assert writer.ended
        with pytest.raises(ValueError, match="end mark"):
            writer.write("stdout", 2, b"y")


def test_segment_lost_in_a_power_cut_is_made_anew(folder: Path) -> None:
    write(folder, [("stdout", 1, b"x")])
    (folder / "log" / "0000000002").write_bytes(bytes(64))
    write(folder, [("stdout", 2, b"y")], end=True)
    check_log(folder)
    assert kept(folder) == [("stdout", 1, b"x"), ("stdout", 2, b"y")]


FULL_DISK = """
import os, sys
from pathlib import Path
from dms_executor.logs import LogWriter
folder = Path(sys.argv[1])
writer = LogWriter.open(folder, 1 << 30, 1 << 30)
for number in range(100):
    writer.write("stdout", 1, b"%03d" % number + b"x" * 997)
if sys.argv[2:]:
    Path(sys.argv[2]).unlink()
else:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write("stdout", 2, b"room again")
assert writer.end()
"""


def _run(*arguments: str, limit: int | None = None) -> None:
    def shrink() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    subprocess.run([sys.executable, "-c", FULL_DISK, *arguments], check=True, preexec_fn=shrink, timeout=60)


def _gaps(folder: Path) -> int:
    """How many gaps stand between what was written before the disk was full and what came after."""
    summary = check_log(folder)
    assert summary.ended
    assert summary.lost["stdout"] > 0
    assert summary.kept["stdout"] + summary.lost["stdout"] == 100_010
    *before, after = kept(folder)
    written = [entry for entry in before if entry[0] == "stdout"]
    gaps = before[len(written) :]
    assert [int(entry[2][:3]) for entry in written] == list(range(len(written)))
    assert sum(entry[2] for entry in gaps) == summary.lost["stdout"]
    assert after == ("stdout", 2, b"room again")
    return len(gaps)


def test_file_size_limit_counts_as_a_gap(folder: Path) -> None:
    _run(str(folder), limit=20_000)
    assert _gaps(folder) >= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_full_disk_counts_as_a_gap(folder: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False).returncode:
        pytest.skip("no mount allowed here")
    try:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(16384))
        _run(str(folder), str(ballast))
        assert _gaps(folder) == 1
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_dropping_a_log_frees_its_size(folder: Path) -> None:
    write(folder, [("stdout", 1, b"x" * 5000)], end=True)
    assert log_size(folder) == 64 + 16 + 5000 + 16
    assert drop_log(folder) == 5096
    assert (log_size(folder), drop_log(folder), (folder / "log").exists()) == (0, 0, False)


def test_files_let_nobody_else_in(folder: Path) -> None:
    write(folder, [("stdout", 1, b"x")])
    assert (folder / "log").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (folder / "log").iterdir()} == {0o600}
