"""What comes back from a guest, which may be hostile."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import struct
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dms_executor.errors import CopyFailed, ResourcesUnavailable
from dms_executor.microvm import written
from dms_executor.microvm.outputs import BLOCK, MAGIC, make_device, unpack_outputs

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def stream(*members: Member) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def write(device: Path, streams: Sequence[bytes], *, lengths: Sequence[int] | None = None, count: int = -1) -> None:
    """As the agent does, the first block last."""
    at = BLOCK
    with device.open("r+b") as disk:
        for data in streams:
            disk.seek(at)
            disk.write(data)
            at += -(-len(data) // BLOCK) * BLOCK
        said = [len(data) for data in streams] if lengths is None else lengths
        disk.seek(0)
        disk.write(MAGIC + struct.pack(f"<II{len(said)}Q", len(said) if count < 0 else count, 0, *said))


@pytest.fixture
async def device(tmp_path: Path) -> Path:
    await make_device(tmp_path / "device", 1 << 20)
    return tmp_path / "device"


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[list[int]]:
    """Two outputs, and what the guest must not reach."""
    opened = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        opened.append(os.open(tmp_path / name, os.O_PATH | os.O_DIRECTORY))
    (tmp_path / "victim").mkdir()
    yield opened
    for fd in opened:
        os.close(fd)


def tree(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


async def test_each_output_comes_back_into_its_folder(tmp_path: Path, device: Path, folders: list[int]) -> None:
    (tmp_path / "one/kept").write_text("kept")
    (tmp_path / "one/result").write_text("old")
    first = stream(
        member("sub", type=tarfile.DIRTYPE, mode=0o700),
        member("sub/result", b"x" * 5000, mode=0o640, mtime=981169445),
        member("result", b"new"),
        member("link", type=tarfile.SYMTYPE, linkname="/outside"),
        member("hard", type=tarfile.LNKTYPE, linkname="sub/result"),
    )
    write(device, [first, stream(member("other", b"second"))])
    for _ in range(2):  # again after a crash
        assert await unpack_outputs(device, folders, keep_owner=False) == []
        one = {"sub": None, "sub/result": b"x" * 5000, "hard": b"x" * 5000, "link": "/outside"}
        assert tree(tmp_path / "one") == {**one, "kept": b"kept", "result": b"new"}
        assert tree(tmp_path / "two") == {"other": b"second"}
    status = (tmp_path / "one/sub/result").stat()
    assert (status.st_mode & 0o7777, int(status.st_mtime), status.st_nlink) == (0o640, 981169445, 2)


async def test_a_file_that_was_written_stays_the_same_file(tmp_path: Path, device: Path) -> None:
    host = tmp_path / "host"
    host.write_text("longer than what comes")
    before = host.stat().st_ino
    for member_, expected in (
        (member("file", b"new", mode=0o6640), None),
        (member("file", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "cannot be written"),
        (member("file", type=tarfile.DIRTYPE), "no file"),
        (member("other", b"x"), "not what was asked for"),
    ):
        place = await asyncio.to_thread(written.place_for, tmp_path / "place")
        granted = os.open(host, os.O_PATH)
        write(device, [stream(member_)])
        try:
            if expected is None:
                await unpack_outputs(device, [place], keep_owner=False, only={0: written.NAME})
                await asyncio.to_thread(written.put_back, place, granted, str(host))
            else:
                with pytest.raises(CopyFailed, match=expected):
                    await unpack_outputs(device, [place], keep_owner=False, only={0: written.NAME})
                    await asyncio.to_thread(written.put_back, place, granted, str(host))
        finally:
            os.close(place)
            os.close(granted)
            await asyncio.to_thread(shutil.rmtree, tmp_path / "place")
    assert (host.read_text(), host.stat().st_ino, host.stat().st_mode & 0o7777) == ("new", before, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_owners_are_kept_where_asked_and_set_user_id_bits_never(
    tmp_path: Path, device: Path, folders: list[int]
) -> None:
    write(device, [stream(member("file", b"x", mode=0o6755, uid=1234, gid=5678)), stream()])
    await unpack_outputs(device, folders, keep_owner=True)
    status = (tmp_path / "one/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o755)
    await unpack_outputs(device, folders, keep_owner=False)
    assert (tmp_path / "one/file").stat().st_uid == 0


@pytest.mark.parametrize(
    "members",
    [
        [member("../victim/file", b"x")],
        [member("/../../victim/file", b"x")],
        [member("s", type=tarfile.SYMTYPE, linkname="../victim"), member("s/file", b"x")],
        [
            member("s", type=tarfile.SYMTYPE, linkname="../victim/file"),
            member("h", type=tarfile.LNKTYPE, linkname="s/x"),
        ],
        [member("h", type=tarfile.LNKTYPE, linkname="../victim/secret")],
    ],
)
async def test_nothing_outside_is_reached(
    tmp_path: Path, device: Path, folders: list[int], members: list[Member]
) -> None:
    (tmp_path / "victim/secret").write_text("secret")
    write(device, [stream(*members), stream()])
    with pytest.raises(CopyFailed):
        await unpack_outputs(device, folders, keep_owner=False)
    assert tree(tmp_path / "victim") == {"secret": b"secret"}
    assert (tmp_path / "victim/secret").stat().st_nlink == 1


async def test_device_nodes_are_left_out_and_told(tmp_path: Path, device: Path, folders: list[int]) -> None:
    write(device, [stream(member("disk", type=tarfile.BLKTYPE, devmajor=8), member("file", b"x")), stream()])
    (told,) = await unpack_outputs(device, folders, keep_owner=False)
    assert "disk" in told
    assert tree(tmp_path / "one") == {"file": b"x"}


async def test_a_guest_that_ended_too_soon(tmp_path: Path, device: Path, folders: list[int]) -> None:
    with pytest.raises(CopyFailed, match="ended before") as raised:
        await unpack_outputs(device, folders, keep_owner=False)
    assert raised.value.mend


GOOD = stream(member("file", b"x" * 3000))


@pytest.mark.parametrize(
    ("lengths", "count"),
    [([2**64 - 1, 0], -1), ([1 << 40, 0], -1), ([len(GOOD)], -1), ([len(GOOD), 0, 0], -1), ([len(GOOD), 0], 2**32 - 1)],
)
async def test_lengths_that_cannot_be(
    tmp_path: Path, device: Path, folders: list[int], lengths: list[int], count: int
) -> None:
    write(device, [GOOD, b""], lengths=lengths, count=count)
    with pytest.raises(CopyFailed, match="damaged"):
        await unpack_outputs(device, folders, keep_owner=False)
    assert tree(tmp_path / "one") == {}


@pytest.mark.parametrize("data", [GOOD[:700], b"\xff" * 5000, b"A" * 100_000])
async def test_a_stream_that_is_none(tmp_path: Path, device: Path, folders: list[int], data: bytes) -> None:
    write(device, [data, stream()])
    with pytest.raises(CopyFailed):
        await asyncio.wait_for(unpack_outputs(device, folders, keep_owner=False), 30)


async def test_a_deadline_leaves_nobody_behind(tmp_path: Path, folders: list[int]) -> None:
    device = tmp_path / "large"
    await make_device(device, 1 << 40)
    # Nothing but a hole, which takes minutes to read.
    write(device, [b"", b""], lengths=[1 << 40, 0])
    with pytest.raises(CopyFailed, match=r"within 0\.2 s"):
        await unpack_outputs(device, folders, keep_owner=False, deadline=0.2)
    assert device.stat().st_blocks * 512 < 1 << 20


async def test_a_device_that_the_host_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ResourcesUnavailable, match="smaller disk"):
        await make_device(tmp_path / "device", 2**62)
