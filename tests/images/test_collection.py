"""What is listed, what may go, and what stays because somebody uses it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ByteSize, Executor, Policy, Settings
from dms_executor.errors import ImageInUse, ImageNotFound, InvalidRequest
from dms_executor.images import ImageStore, parse_reference
from dms_executor.images.cache import ImageCache
from dms_executor.images.hosts import RegistryHost
from dms_executor.images.store import Facts
from dms_executor.microvm import rootimage
from dms_executor.types import Progress

from ..registry import Registry
from .conftest import Layout, cache_of
from .test_jobs import request

DEADLINE = 60.0


def ignore(progress: Progress) -> None:
    """Nobody watches."""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


@pytest.fixture
def cache(store: ImageStore, registry: Registry) -> ImageCache:
    return cache_of(store, hosts={registry.host: RegistryHost(tls=False)})


async def pull(cache: ImageCache, image: str) -> str:
    return (await cache.pull(parse_reference(image), image, ignore, DEADLINE)).digest


async def pin(store: ImageStore, digest: str, token: str) -> None:
    assert await asyncio.to_thread(store.find, digest.replace(":", "-"), token) is not None


async def facts(store: ImageStore, digest: str) -> Facts:
    return await asyncio.to_thread(store.facts, digest.replace(":", "-"))


async def test_what_is_here_is_listed(store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry) -> None:
    assert await cache.images() == []
    image = registry.push(layout({"Cmd": ["one"]}), "busy:1")
    also = registry.push(layout({"Cmd": ["one"]}), "busy:other")
    before = time.time()
    digest = await pull(cache, image)
    assert await pull(cache, also) == digest
    (info,) = await cache.images()
    assert info.digest == digest
    assert info.digest.startswith("sha256:")
    assert info.references == sorted([image, also])
    assert info.platform.startswith("linux/")
    assert info.size > 500_000
    assert before - 5 < info.last_used_at.timestamp() < time.time() + 5
    assert info.pinned is False


async def test_an_image_with_several_names_goes_with_all_of_them(
    store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    image = registry.push(layout(), "busy:1")
    digest = await pull(cache, image)
    await pull(cache, registry.push(layout(), "busy:other"))
    assert await cache.remove(digest) > 500_000
    assert await cache.images() == []
    with pytest.raises(ImageNotFound):
        await cache.remove(digest)
    left = sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file())
    assert left == ["lock"]
    assert await pull(cache, image) == digest


async def test_what_is_in_use_stays(store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry) -> None:
    digest = await pull(cache, registry.push(layout(), "busy:1"))
    (store.folder.parent / "executions/living").mkdir(parents=True)
    await pin(store, digest, "living")
    with pytest.raises(ImageInUse, match="dms-executor ps"):
        await cache.remove(digest)
    assert await cache.prune(age=0, size=0) == (0, 0)
    assert (await cache.images())[0].pinned
    await asyncio.to_thread(store.unpin, "living")
    assert (await cache.prune(age=0, size=0))[0] == 1


async def test_a_pin_of_nobody_holds_nothing(
    store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    digest = await pull(cache, registry.push(layout(), "busy:1"))
    await pin(store, digest, "vanished")
    assert (await cache.images())[0].pinned is False
    await cache.remove(digest)


async def test_collection_by_age_and_size(
    store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    digests = []
    for number in range(4):
        folder = layout({"Cmd": [str(number)]}, name=f"layout{number}")
        digests.append(await pull(cache, registry.push(folder, f"busy:{number}")))
        when = time.time() - 1000 + 100 * number
        os.utime(store.folder / digests[-1].replace(":", "-") / "image.json", (when, when))
    assert (await cache.prune(age=850, size=1 << 40))[0] == 2  # 1000 and 900 s unused
    assert [info.digest for info in await cache.images()] == [digests[3], digests[2]]
    one = (await facts(store, digests[3])).size
    blobs = sum(path.stat().st_blocks * 512 for path in (store.folder / "blobs").rglob("*"))
    count, freed = await cache.prune(age=1e9, size=one + blobs)
    assert count == 1
    assert freed >= one
    assert [info.digest for info in await cache.images()] == [digests[3]]
    # The one that is left has its layer still, which all of them shared.
    assert all(store.blob(blob).exists() for blob in (await facts(store, digests[3])).blobs)


async def test_layers_of_a_broken_pull_are_kept_a_day(
    store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    folder = store.folder / "blobs/sha256"
    folder.mkdir(parents=True)
    young, old = folder / (64 * "0"), folder / (64 * "1")
    young.write_bytes(b"x")
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 90000, time.time() - 90000))
    await cache.prune(age=1e9, size=1 << 40)
    assert young.exists()
    assert not old.exists()


async def test_the_block_image_of_an_image_counts_and_goes_with_it(
    tmp_path: Path, store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    digest = await pull(cache, registry.push(layout(), "busy:1"))
    before = (await cache.images())[0].size
    for name in ("one", "two"):
        await rootimage.lend_image(store, digest.replace(":", "-"), tmp_path / name)
    assert (tmp_path / "one").stat().st_ino == (tmp_path / "two").stat().st_ino
    made = (tmp_path / "one").stat().st_blocks * 512
    assert made > 500_000
    assert (await cache.images())[0].size == before + made
    assert await cache.remove(digest) == before + made
    left = sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file())
    assert left == ["lock"]
    assert (tmp_path / "one").stat().st_nlink == 2  # whose execution is still there keeps it


_PULLS_AND_COLLECTS = """
import asyncio, sys
from pathlib import Path
from dms_executor.errors import ImageInUse, ImageNotFound
from dms_executor.images import ImageStore, parse_reference
from dms_executor.images.hosts import RegistryHost
from tests.images.conftest import cache_of

async def main(state, name, host, *images):
    store = ImageStore(Path(state))
    cache = cache_of(store, hosts={host: RegistryHost(tls=False)})
    for turn in range(3):
        for number, image in enumerate(images):
            token = f"{name}-{turn}-{number}"
            (Path(state) / "executions" / token).mkdir(parents=True)
            brought = await cache.bring(parse_reference(image), None, image, token, lambda p: None, 60, "missing")
            await cache.prune(age=0, size=0)
            assert (store.rootfs(brought.digest) / "bin/busybox").exists(), "taken while it was in use"
            store.unpin(token)
        await cache.prune(age=0, size=0)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_pull_and_collect_at_once(
    tmp_path: Path, store: ImageStore, cache: ImageCache, layout: Layout, registry: Registry
) -> None:
    images = [
        registry.push(layout({"Cmd": [str(number)]}, name=f"layout{number}"), f"busy:{number}") for number in range(2)
    ]
    command = [sys.executable, "-c", _PULLS_AND_COLLECTS, str(tmp_path / "state")]
    here = Path(__file__).parents[2]
    begun = [
        subprocess.Popen([*command, name, registry.host, *images], stderr=subprocess.PIPE, cwd=here)
        for name in ("one", "two")
    ]
    for process in begun:
        _, said = await asyncio.to_thread(process.communicate, timeout=120)
        assert process.returncode == 0, said.decode()
    await cache.prune(age=0, size=0)
    assert await cache.images() == []
    assert os.listdir(store.folder / "tmp") == []


# -- through the public interface -------------------------------------------------------------------------------------


def settings(registry: Registry, **fields: Any) -> Settings:
    return Settings(engines={"oci": {"registries": {registry.host: {"tls": False}}}}, **fields)


async def test_images_of_the_executor(state_dir: Path, layout: Layout, registry: Registry, oci_runtime: str) -> None:
    image = registry.push(layout({"Cmd": ["sleep", "1000"]}), "busy:1")
    seen: list[Progress] = []
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings(registry)) as executor:
        assert await executor.images() == []
        info = await executor.pull_image(image, progress=seen.append)
        assert (info.engine, info.references) == ("oci", [image])
        assert seen
        await executor.start(request(image))
        assert (await executor.images())[0].pinned
        with pytest.raises(ImageInUse):
            await executor.remove_image(info.digest)
        assert (await executor.cleanup()).images == 0
        await executor.cancel("x", grace=0)
        await executor.wait("x")
        await executor.remove("x")
        assert await executor.remove_image(info.digest) > 500_000
        assert await executor.images() == []
        with pytest.raises(ImageNotFound, match="images ls"):
            await executor.remove_image(info.digest)
        with pytest.raises(InvalidRequest, match="of no registry"):
            await executor.pull_image(f"oci:{state_dir}")


async def test_cleanup_goes_by_the_settings(
    state_dir: Path, layout: Layout, registry: Registry, oci_runtime: str
) -> None:
    image = registry.push(layout(), "busy:1")
    chosen = settings(registry, image_cache=ByteSize(1))
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=chosen) as executor:
        await executor.pull_image(image)
        report = await executor.cleanup()
        assert report.images == 1
        assert report.bytes_freed > 500_000
        assert await executor.images() == []
