"""Images in the cache, made by the real umoci and skopeo."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable, ImageNotFound
from dms_executor.images import ImageStore, Reference, Unpacked, parse_reference
from dms_executor.images.cache import ImageCache
from dms_executor.policy import Policy
from dms_executor.types import Progress

from .conftest import Layout, cache_of

DEADLINE = 60.0


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An empty cache."""
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


async def bring(cache: ImageCache, image: str, token: str = "t") -> Unpacked:
    reference: Reference = parse_reference(image)
    granted = await asyncio.to_thread(Policy.trusted().open, reference.path)
    with granted:
        return await cache.bring(reference, granted, image, token, ignore, DEADLINE)


def ignore(progress: Progress) -> None:
    """Nobody watches."""


async def test_an_image_is_unpacked_once_and_pinned(store: ImageStore, layout: Layout) -> None:
    cache = cache_of(store)
    image = f"oci:{layout({'Cmd': ['true']})}"
    first = await bring(cache, image, "one")
    inode = (store.rootfs(first.digest) / "bin" / "busybox").lstat().st_ino
    second = await bring(cache, image, "two")
    assert first == second
    assert first.config.cmd == ["true"]
    assert (store.rootfs(first.digest) / "bin" / "busybox").lstat().st_ino == inode
    pins = store.folder / "pins" / first.digest
    assert sorted(os.listdir(pins)) == ["one", "two"]
    await asyncio.to_thread(store.unpin, "one")
    await asyncio.to_thread(store.unpin, "one")
    assert os.listdir(pins) == ["two"]
    assert os.listdir(store.folder / "tmp") == []


async def test_many_askers_share_one_pull(store: ImageStore, layout: Layout) -> None:
    cache = cache_of(store)
    image = f"oci:{layout()}"
    askers = [asyncio.create_task(bring(cache, image, f"t{index}")) for index in range(8)]
    await asyncio.sleep(0)
    askers[0].cancel()
    results = await asyncio.gather(*askers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {result.digest for result in results[1:] if isinstance(result, Unpacked)} != set()
    assert all(isinstance(result, Unpacked) for result in results[1:])
    assert os.listdir(store.folder / "tmp") == []


async def test_two_processes_may_unpack_the_same(store: ImageStore, layout: Layout) -> None:
    image = f"oci:{layout()}"
    results = await asyncio.gather(*(bring(cache_of(store), image, f"t{index}") for index in range(3)))
    assert len({result.digest for result in results}) == 1


async def test_the_last_askers_departure_stops_it(store: ImageStore, layout: Layout) -> None:
    task = asyncio.create_task(bring(cache_of(store), f"oci:{layout()}"))
    for _ in range(1000):
        if (store.folder / "tmp").exists():
            break
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(store.folder / "tmp") == []


async def test_what_a_dead_process_left_is_swept(store: ImageStore, layout: Layout) -> None:
    left = store.folder / "tmp" / "left" / "bundle" / "rootfs"
    left.mkdir(parents=True)
    await bring(cache_of(store), f"oci:{layout()}")
    assert os.listdir(store.folder / "tmp") == []


def layer_of(folder: Path) -> Path:
    """The file of the layout's only layer: its largest blob."""
    return max((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
async def test_a_layer_that_is_no_file_is_not_opened(store: ImageStore, layout: Layout, kind: str) -> None:
    folder = layout()
    layer = layer_of(folder)
    kept = layer.rename(folder.parent / "kept")
    if kind == "fifo":
        os.mkfifo(layer)
    elif kind == "device":
        os.mknod(layer, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    else:
        layer.symlink_to(kept)
    with pytest.raises(ImageNotFound, match="damaged"):
        async with asyncio.timeout(20):
            await bring(cache_of(store), f"oci:{folder}")
    assert os.listdir(store.folder / "tmp") == []


async def test_a_failed_unpacking_is_not_remembered(store: ImageStore, layout: Layout) -> None:
    folder = layout()
    largest = max((folder / "blobs" / "sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(b"garbage" + data)
    cache = cache_of(store)
    with pytest.raises(ImageNotFound, match="no tar archive"):
        await bring(cache, f"oci:{folder}")
    largest.write_bytes(data)
    await bring(cache, f"oci:{folder}")


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
async def test_archives(store: ImageStore, archive: Callable[[str], Path], transport: str) -> None:
    cache = cache_of(store)
    image = f"{transport}:{archive(transport)}"
    first = await bring(cache, image)
    assert first.config.cmd == ["true"]
    assert (store.rootfs(first.digest) / "bin" / "busybox").exists()
    assert await bring(cache, image) == first


async def test_a_missing_program_is_named(store: ImageStore, layout: Layout) -> None:
    with pytest.raises(EngineUnavailable):
        await bring(cache_of(store, umoci="/nonexistent/umoci"), f"oci:{layout()}")
