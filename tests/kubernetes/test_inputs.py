"""Inputs whose way into the pod breaks, over the stand-in: a job finds all of them as they are, or does not start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from dms_executor.errors import PolicyDenied, StartFailed
from dms_executor.kubernetes import transfers
from dms_executor.types import StorageVolume

from .apiserver import ApiServer
from .conftest import Bench

_SIZE, _COUNT = 1 << 20, 8


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_BACKOFF", (0.01,))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files of a megabyte each, told apart by what they begin with."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(_COUNT):
        (folder / f"file-{number}").write_bytes(b"%d\n" % number + bytes(_SIZE))
    return folder


def _found(server: ApiServer) -> dict[str, int]:
    """The files in a pod's places, by name, with their sizes."""
    return {path.name: path.stat().st_size for path in server.folder.glob("*/place-*/**/file-*")}


_LOOKS = "cd /in; for file in *; do echo $file $(head -n 1 $file) $(wc -c <$file); done; exit 3"


def _told(source: Path) -> bytes:
    """What that prints."""
    lines = []
    for path in sorted(source.iterdir()):
        data = path.read_bytes()
        lines.append(b"%s %s %d\n" % (path.name.encode(), data.partition(b"\n")[0], len(data)))
    return b"".join(lines)


async def test_an_input_whose_connection_breaks_is_brought_again_as_it_is_by_then(
    alone: Bench, server: ApiServer, source: Path
) -> None:
    gone: list[str] = []

    def change() -> None:
        whole = [name for name, size in _found(server).items() if size > _SIZE]
        gone.append(whole[0])
        (source / whole[0]).unlink()
        (source / whole[1]).write_bytes(b"new\nshort")
        (source / "later").write_bytes(b"late\n")

    server.tears, server.torn = [_COUNT // 2 * _SIZE], change
    volume = StorageVolume(source=str(source), target="/in")
    result = await asyncio.wait_for(alone.run("sh", "-c", _LOOKS, inputs=[volume]), 60)
    assert result.exit_code == 3, result
    assert len(gone) == 1
    assert result.stdout == _told(source)
    assert gone[0].encode() not in result.stdout


async def test_of_many_inputs_only_what_was_not_whole_comes_again(
    alone: Bench, server: ApiServer, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "word").write_text("given\n")
    server.tears = [1 << 20, _SIZE, 2 * _SIZE]  # the small one passes
    server.requests.clear()
    result = await asyncio.wait_for(
        alone.run(
            *("sh", "-c", f"cat /word; {_LOOKS}"),
            inputs=[
                StorageVolume(source=str(tmp_path / "word"), target="/word"),
                StorageVolume(source=str(source), target="/in"),
            ],
        ),
        60,
    )
    assert (result.exit_code, result.stdout) == (3, b"given\n" + _told(source))
    assert server.tears == []
    assert server.requests["GET exec"] == 1 + 3 + 2  # their end, and the go


async def test_inputs_outlive_a_server_that_stumbles(alone: Bench, server: ApiServer, source: Path) -> None:
    server.stumbles["GET exec"] = 12  # more than any number of tries
    volume = StorageVolume(source=str(source), target="/in")
    result = await asyncio.wait_for(alone.run("sh", "-c", _LOOKS, inputs=[volume]), 60)
    assert (result.exit_code, result.stdout) == (3, _told(source))
    assert server.stumbles["GET exec"] == 0


async def test_why_inputs_are_not_there_yet_is_told_and_ends_with_the_preparation(
    alone: Bench, server: ApiServer, source: Path
) -> None:
    server.stumbles["GET exec"] = 1 << 30
    volume = StorageVolume(source=str(source), target="/in")
    request = alone.request("true", inputs=[volume], prepare_timeout=5.0)
    running = asyncio.create_task(alone.executor.run(request))
    await alone.waits_for(request, "InternalError")
    with pytest.raises(StartFailed, match="5 s"):
        await asyncio.wait_for(running, 30)
    assert server.pods == {}


async def test_inputs_that_may_not_be_brought_are_refused_at_once(
    alone: Bench, server: ApiServer, source: Path
) -> None:
    server.rights.remove(("pods/exec", "get"))
    with pytest.raises(StartFailed, match="Forbidden") as caught:
        await asyncio.wait_for(alone.run("true", inputs=[StorageVolume(source=str(source), target="/in")]), 30)
    assert "rights" in caught.value.mend
    assert server.pods == {}


async def test_what_takes_the_place_of_an_input_meanwhile_is_not_brought(
    alone: Bench, server: ApiServer, source: Path
) -> None:
    def swap() -> None:
        source.rename(source.with_name("old"))
        shutil.copytree(source.with_name("old"), source)

    server.tears, server.torn = [_SIZE], swap
    with pytest.raises(PolicyDenied):
        await asyncio.wait_for(alone.run("true", inputs=[StorageVolume(source=str(source), target="/in")]), 30)
    assert server.pods == {}
