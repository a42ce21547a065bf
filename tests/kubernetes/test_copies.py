"""Copies into a pod and out of it; the lines of the conformance suite go further."""

from __future__ import annotations

from pathlib import Path

import pytest

from dms_executor.errors import CopyFailed

from .conftest import Bench

_WAITS = "while :; do sleep 1000; done"


async def test_a_tree_goes_in_and_comes_out(either: Bench, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub/large").write_bytes(bytes(range(256)) * 4000)
    (top / "link").symlink_to("sub/large")
    execution_id = await either.start("sh", "-c", _WAITS)
    await either.executor.copy_in(execution_id, top, "/tmp/in")
    await either.executor.copy_out(execution_id, "/tmp/in", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/large").read_bytes() == (top / "sub/large").read_bytes()
    assert (tmp_path / "back/link").is_symlink()
    (tmp_path / "sub").write_text("no folder")
    with pytest.raises(CopyFailed, match="Is a directory"):
        await either.executor.copy_in(execution_id, tmp_path / "sub", "/tmp/in")
