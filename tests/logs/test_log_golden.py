"""Readers and writers agree with logs that were made byte by byte from the protocol's text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import StateDamaged, StateTooNew
from dms_executor.logs import LogReader, LogWriter, check_log, read_tail

from .log_model import kept

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def _private(name: str, folder: Path) -> Path:
    shutil.copytree(GOLDEN / name / "log", folder / "log")
    for file in (folder / "log").iterdir():
        file.chmod(0o600)
    return folder


def _expected(name: str, key: str) -> Any:
    entries = json.loads((GOLDEN / name / "expected.json").read_text())[key]
    if not isinstance(entries, list):
        return entries
    return [(kind, a, b) if kind == "gap" else (kind, a, bytes.fromhex(b)) for kind, a, b in entries]


@pytest.mark.parametrize("name", CASES)
def test_golden_log_reads_as_documented(name: str) -> None:
    assert kept(GOLDEN / name) == _expected(name, "entries")
    assert kept(GOLDEN / name, final=True) == _expected(name, "final")


@pytest.mark.parametrize("name", CASES)
def test_golden_log_end_mark_is_seen(name: str) -> None:
    with LogReader(GOLDEN / name) as reader:
        while reader.read().entries:
            pass
        assert reader.ended == _expected(name, "ended")


@pytest.mark.parametrize("name", CASES)
def test_golden_log_result_is_the_tail(name: str) -> None:
    for stream in ("stdout", "stderr"):
        final = _expected(name, "final")
        data = b"".join(entry[2] for entry in final if entry[0] == stream)
        lost = sum(entry[2] for entry in final if entry[0] == "gap" and entry[1] == stream)
        assert read_tail(GOLDEN / name, stream, 1000) == (data, lost > 0)
        assert read_tail(GOLDEN / name, stream, 2) == (data[-2:], lost + len(data) > 2)
        assert read_tail(GOLDEN / name, stream, 0) == (b"", lost + len(data) > 0)


@pytest.mark.parametrize("name", CASES)
def test_check_tells_well_formed_from_damaged(name: str, folder: Path) -> None:
    log = _private(name, folder)
    if not _expected(name, "well_formed"):
        with pytest.raises(StateDamaged):
            check_log(log)
        return
    assert check_log(log).ended == _expected(name, "ended")


@pytest.mark.parametrize("name", ["plain", "running", "cursor", "disk_full"])
def test_python_writer_writes_the_golden_bytes(name: str, folder: Path) -> None:
    with LogWriter.open(folder, 1 << 30, 1 << 24) as writer:
        writer.write("stdout", 1000, b"hello\n")
        writer.write("stderr", 1001, b"\xff\x00?")
        if name == "cursor":
            writer.cursor(b"c1", 1001)
        if name == "disk_full":
            writer.gap("stdout", 70000, 1002)
        if name != "running":
            writer.end(1002)
    written = (folder / "log" / "0000000001").read_bytes()
    assert written == (GOLDEN / name / "log" / "0000000001").read_bytes()


def test_newer_format_is_refused(folder: Path) -> None:
    log = _private("plain", folder) / "log" / "0000000001"
    log.write_bytes(log.read_bytes().replace(b"DMSLOG\x00\x01", b"DMSLOG\x00\x02"))
    with LogReader(folder) as reader, pytest.raises(StateTooNew, match="version 2"):
        reader.read()


@pytest.mark.parametrize(("place", "value"), [(8, 9), (16, 1), (45, 1), (68, 9), (69, 1), (64, 255)])
def test_check_finds_a_flipped_byte(folder: Path, place: int, value: int) -> None:
    log = _private("two_segments", folder) / "log" / "0000000002"
    data = bytearray(log.read_bytes())
    data[place] = value
    log.write_bytes(data)
    with pytest.raises(StateDamaged):
        check_log(folder)
