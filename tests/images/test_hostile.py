"""Images that mean harm: what they would reach, and what they would fill."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import ImageNotFound, ImagePullFailed
from dms_executor.images import ImageStore, Unpacked, parse_reference
from dms_executor.images.config import host_architecture
from dms_executor.images.limits import ImageLimits
from dms_executor.policy import Policy
from dms_executor.types import ByteSize

from .conftest import add_blob, cache_of

_MEDIA = "application/vnd.oci.image"
_CHARGED = ByteSize("64MiB")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def layer(*entries: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for one in entries:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def image(
    folder: Path, layers: Sequence[bytes], *, kind: str = "tar", config: object = None, diffs: Sequence[str] = ()
) -> str:
    """A layout of those layers; `config` in place of a whole configuration's `config`."""
    plain = [zlib.decompress(data, wbits=47) if kind == "tar+gzip" and not diffs else data for data in layers]
    whole = {
        "architecture": host_architecture(),
        "os": "linux",
        "config": {"Cmd": ["true"]} if config is None else config,
        "rootfs": {
            "type": "layers",
            "diff_ids": list(diffs) or [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in plain],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": {"mediaType": f"{_MEDIA}.config.v1+json", **add_blob(folder, json.dumps(whole).encode())},
        "layers": [{"mediaType": f"{_MEDIA}.layer.v1.{kind}", **add_blob(folder, data)} for data in layers],
    }
    described = {"mediaType": f"{_MEDIA}.manifest.v1+json", **add_blob(folder, json.dumps(manifest).encode())}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return f"oci:{folder}"


async def bring(store: ImageStore, name: str, limits: ImageLimits = ImageLimits()) -> Unpacked:
    reference = parse_reference(name)
    with await asyncio.to_thread(Policy.trusted().open, reference.path) as granted:
        return await cache_of(store, limits=limits).bring(reference, granted, name, "t", lambda _: None, 60.0)


def nothing_stays(store: ImageStore) -> None:
    """No workspace, and no image that looks whole."""
    left = list((store.folder / "tmp").glob("*")) + list(store.folder.glob("*/rootfs"))
    assert left == []


# -- where it leads --------------------------------------------------------------------------------------------------

ESCAPES: dict[str, Callable[[Path], list[bytes]]] = {
    "an absolute path": lambda out: [layer((entry(f"{out}/hit"), b"x"))],
    "dots": lambda out: [layer((entry("../" * 40 + f"{out}/hit".lstrip("/")), b"x"))],
    "a link and what is behind it": lambda out: [
        layer(entry("door", tarfile.SYMTYPE, str(out)), (entry("door/hit"), b"x"))
    ],
    "a link in the layer before": lambda out: [
        layer(entry("door", tarfile.SYMTYPE, str(out))),
        layer((entry("door/hit"), b"x")),
    ],
    "a link with dots": lambda out: [
        layer(entry("door", tarfile.SYMTYPE, "../" * 40 + str(out).lstrip("/"))),
        layer((entry("door/hit"), b"x")),
    ],
    "a link to a file": lambda out: [
        layer(entry("hit", tarfile.SYMTYPE, str(out / "victim"))),
        layer((entry("hit"), b"x")),
    ],
    "a hard link": lambda out: [layer(entry("hit", tarfile.LNKTYPE, str(out / "victim")), (entry("hit"), b"x"))],
    "a hard link with dots": lambda out: [
        layer(entry("hit", tarfile.LNKTYPE, "../" * 40 + str(out / "victim").lstrip("/")))
    ],
    "a whiteout behind a link": lambda out: [
        layer(entry("door", tarfile.SYMTYPE, str(out))),
        layer(entry("door/.wh.victim")),
    ],
    "a whiteout of dots": lambda out: [layer(entry(".wh..")), layer(entry("a/.wh..."))],
    "an opaque folder behind a link": lambda out: [
        layer(entry("door", tarfile.SYMTYPE, str(out))),
        layer(entry("door/.wh..wh..opq")),
    ],
    "a whiteout with dots": lambda out: [layer(entry("../" * 40 + str(out).lstrip("/") + "/.wh.victim"))],
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=list(ESCAPES))
async def test_no_layer_leads_out_of_its_root(
    store: ImageStore, tmp_path: Path, escape: Callable[[Path], list[bytes]]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"untouched")
    before = (outside / "victim").stat()
    (tmp_path / "layout").mkdir()
    name = image(tmp_path / "layout", escape(outside))
    try:
        unpacked = await bring(store, name)
    except ImageNotFound:
        nothing_stays(store)
    else:
        # It has its place, in its own root.
        for path in store.rootfs(unpacked.digest).rglob("hit"):
            assert path.is_symlink() or path.stat().st_ino != before.st_ino
    after = (outside / "victim").stat()
    assert os.listdir(outside) == ["victim"]
    assert (after.st_ino, after.st_nlink, after.st_size, after.st_mode) == (before.st_ino, 1, 9, before.st_mode)


async def test_a_whiteout_takes_away_and_a_link_in_place_of_a_folder_stays_one(
    store: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "layout").mkdir()
    below = layer(entry("a", tarfile.DIRTYPE, mode=0o755), (entry("a/old"), b"1"), (entry("gone"), b"1"))
    above = layer(entry("a/.wh..wh..opq"), (entry("a/new"), b"2"), entry(".wh.gone"), entry("b", tarfile.SYMTYPE, "a"))
    unpacked = await bring(store, image(tmp_path / "layout", [below, above]))
    root = store.rootfs(unpacked.digest)
    assert sorted(os.listdir(root)) == ["a", "b"]
    assert os.listdir(root / "a") == ["new"]


# -- what it fills ---------------------------------------------------------------------------------------------------


async def refused(store: ImageStore, name: str, limit: str, limits: ImageLimits) -> None:
    with pytest.raises(ImagePullFailed, match="is refused") as caught:
        await bring(store, name, limits)
    assert caught.value.cause_kind == "limit"
    assert f"image_limits.{limit}" in caught.value.mend
    nothing_stays(store)


async def test_a_million_entries(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    some = b"".join(entry(f"f{number}").tobuf() for number in range(1000))
    # Members of gzip follow each other: six megabytes of them hold what would take a file system's last inode.
    data = gzip.compress(some, 9) * 1001
    await refused(
        store,
        image(tmp_path / "layout", [data], kind="tar+gzip", diffs=["sha256:" + "0" * 64]),
        "entries",
        ImageLimits(),
    )


async def test_entries_of_all_layers_count_together(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    layers = [layer(*(entry(f"{letter}{number}") for number in range(60))) for letter in "ab"]
    name = image(tmp_path / "layout", layers)
    await refused(store, name, "entries", ImageLimits(entries=119))
    assert (await bring(store, name, ImageLimits(entries=120))).config.cmd == ["true"]


async def test_a_layer_that_expands_a_thousandfold(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    megabytes = 2048
    head = entry("zeros", size=megabytes << 20).tobuf()
    data = gzip.compress(head) + gzip.compress(bytes(1 << 20), 9) * megabytes
    assert len(data) < megabytes << 10 << 1
    name = image(tmp_path / "layout", [data], kind="tar+gzip", diffs=["sha256:" + "0" * 64])
    await refused(store, name, "expansion", ImageLimits())
    await refused(store, name, "size", ImageLimits(size=ByteSize("256MiB")))


@pytest.mark.parametrize("how", ["pax", "gnu", "header"])
async def test_the_holes_of_sparse_files_count(store: ImageStore, tmp_path: Path, how: str) -> None:
    (tmp_path / "layout").mkdir()
    if how == "pax":
        records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
        data = layer((entry("holes", pax_headers=records), b"0\n".ljust(512, b"\0")))
    elif how == "gnu":
        header = bytearray(entry("holes", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
        header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
        data = bytes(header) + bytes(1024)
    else:
        data = entry("huge", size=1 << 40).tobuf(tarfile.GNU_FORMAT)
        data = gzip.compress(data + bytes(1 << 20))
        name = image(tmp_path / "layout", [data], kind="tar+gzip")
        with pytest.raises(ImageNotFound):  # it is not there, and umoci says so
            await bring(store, name, ImageLimits(size=_CHARGED))
        nothing_stays(store)
        return
    await refused(store, image(tmp_path / "layout", [data]), "size", ImageLimits(size=_CHARGED))


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
async def test_an_archive_is_measured_before_it_is_taken_apart(
    store: ImageStore, tmp_path: Path, archive: Callable[[str], Path], transport: str
) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(gzip.compress(archive(transport).read_bytes()) + gzip.compress(bytes(1 << 20)) * 200)
    with pytest.raises(ImagePullFailed, match="is refused"):
        await bring(store, f"{transport}:{bomb}", ImageLimits(size=ByteSize("100MiB")))
    nothing_stays(store)


async def test_what_is_announced_is_not_fetched(store: ImageStore) -> None:
    from dms_executor.images.measure import check_announced

    check_announced([1, 2, -5], ImageLimits(size=ByteSize(3)), "i")
    with pytest.raises(ImagePullFailed, match="is refused"):
        check_announced([2, 2], ImageLimits(size=ByteSize(3)), "i")


# -- what it says of itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 1024,
        layer((entry("a"), bytes(2000)))[:700],
        b"9 a=b\n".join([entry("x", tarfile.XHDTYPE, size=512).tobuf(), b""]) + bytes(600),
        entry("n").tobuf()[:124] + b"-1234567890 " + entry("n").tobuf()[136:] + bytes(1024),
    ],
    ids=["noise", "cut", "pax without length", "negative"],
)
async def test_what_is_no_archive_is_told(store: ImageStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "layout").mkdir()
    with pytest.raises(ImageNotFound, match=r"damaged|umoci says"):
        await bring(store, image(tmp_path / "layout", [data]))
    nothing_stays(store)


async def test_a_layer_of_another_content_than_its_diff_id(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    name = image(tmp_path / "layout", [layer((entry("a"), b"x"))], diffs=["sha256:" + "1" * 64])
    with pytest.raises(ImageNotFound, match="umoci says"):
        await bring(store, name)
    nothing_stays(store)


async def test_a_layer_of_another_content_than_its_digest(store: ImageStore, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    data = layer((entry("a"), b"x"))
    name = image(folder, [data])
    (folder / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()).write_bytes(layer((entry("a"), b"y")))
    with pytest.raises(ImageNotFound, match="umoci says"):
        await bring(store, name)
    nothing_stays(store)


async def test_an_unknown_compression_is_told(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    with pytest.raises(ImageNotFound, match=r"tar\+zstd") as caught:
        await bring(
            store, image(tmp_path / "layout", [b"\x28\xb5\x2f\xfd"], kind="tar+zstd", diffs=["sha256:" + "0" * 64])
        )
    assert "gzip" in caught.value.mend


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": "true"},
        {"Cmd": [1, None]},
        {"Env": {"A": "b"}},
        {"User": 0},
        {"Entrypoint": [["sh"]]},
        ["Cmd"],
        7,
        {"Labels": {"a": {"b": []}}, "Cmd": [], "StopSignal": []},
    ],
    ids=str,
)
async def test_a_config_of_odd_types_is_told(store: ImageStore, tmp_path: Path, config: object) -> None:
    (tmp_path / "layout").mkdir()
    with pytest.raises(ImageNotFound, match="not readable"):
        await bring(store, image(tmp_path / "layout", [layer((entry("a"), b"x"))], config=config))
    nothing_stays(store)


async def test_a_config_of_nulls_is_an_empty_one(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    config = dict.fromkeys(("Cmd", "Entrypoint", "Env", "Labels", "Volumes"))
    unpacked = await bring(store, image(tmp_path / "layout", [layer((entry("a"), b"x"))], config=config))
    assert (unpacked.config.cmd, unpacked.config.entrypoint) == (None, None)


async def test_special_files_come_as_they_are_and_nobody_else_reaches_them(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    special = layer(
        entry("disk", tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o666),
        entry("pipe", tarfile.FIFOTYPE, mode=0o666),
        (entry("su", mode=0o4755), b"x"),
    )
    unpacked = await bring(store, image(tmp_path / "layout", [special]))
    root = store.rootfs(unpacked.digest)
    assert stat.S_ISCHR((root / "disk").lstat().st_mode)
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / "su").stat().st_mode & 0o7777 == 0o4755
    # The folder above is root's alone: on the host no set-user-id file and no device of a stranger can be named.
    assert store.folder.stat().st_mode & 0o077 == 0
