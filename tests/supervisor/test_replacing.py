"""An archive unpacked over what is there and of another kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dms_executor.errors import CopyFailed
from dms_executor.supervisor import files


async def unpacked(source: Path, target: Path, *, replaces: bool) -> None:
    archive = source.parent / "archive"
    out = os.open(archive, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        await files.pack(os.fsencode(source), b".", out)
        os.lseek(out, 0, os.SEEK_SET)
        await files.unpack(os.fsencode(target), out, replaces=replaces)
    finally:
        os.close(out)


async def test_a_change_of_kind_is_taken_only_where_it_is_asked_for(tmp_path: Path) -> None:
    source, target, other = tmp_path / "source", tmp_path / "target", tmp_path / "other"
    (source / "was-file").mkdir(parents=True)
    (source / "was-file/in").write_text("in")
    (source / "was-folder").write_text("file")
    (target / "was-folder/deep/er").mkdir(parents=True)
    other.mkdir()
    (other / "kept").write_text("kept")
    (target / "was-folder/deep/link").symlink_to(other)
    (target / "was-file").write_text("file")
    with pytest.raises(CopyFailed):
        await unpacked(source, target, replaces=False)
    await unpacked(source, target, replaces=True)
    assert (target / "was-file/in").read_text() == "in"
    assert (target / "was-folder").read_text() == "file"
    assert (other / "kept").read_text() == "kept"
