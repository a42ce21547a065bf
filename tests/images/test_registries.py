"""Images of a real registry, brought by the real skopeo and umoci."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import ImageNotFound, ImagePullFailed
from dms_executor.images import ImageStore, Unpacked, parse_reference
from dms_executor.images.cache import ImageCache
from dms_executor.images.hosts import RegistryHost
from dms_executor.types import Progress

from ..registry import Registry
from .conftest import Layout, cache_of

DEADLINE = 60.0


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


def plain(registry: Registry) -> dict[str, Any]:
    return {"hosts": {registry.host: RegistryHost(tls=False)}}


async def bring(cache: ImageCache, image: str, token: str = "t", **options: Any) -> Unpacked:
    seen: list[Progress] = options.pop("seen", [])
    return await cache.bring(parse_reference(image), None, image, token, seen.append, DEADLINE, **options)


async def test_an_image_comes_from_a_registry(store: ImageStore, layout: Layout, registry: Registry) -> None:
    image = registry.push(layout({"Cmd": ["true"]}), "busy:1")
    seen: list[Progress] = []
    brought = await bring(cache_of(store, **plain(registry)), image, "one", seen=seen)
    assert brought.config.cmd == ["true"]
    assert (store.rootfs(brought.digest) / "bin/busybox").exists()
    assert os.listdir(store.folder / "pins" / brought.digest) == ["one"]
    assert os.listdir(store.folder / "tmp") == []
    pulling = [each for each in seen if each.what == f"pulling {image}"]
    assert pulling[0].done == 0
    assert pulling[-1].done == pulling[-1].total
    assert (pulling[-1].total or 0) > 500_000
    assert pulling[-1].unit == "bytes"
    assert seen[-1].unit == "layers"


async def test_missing_always_and_never(store: ImageStore, layout: Layout, registry: Registry) -> None:
    cache = cache_of(store, **plain(registry))
    first = layout({"Cmd": ["one"]}, name="first")
    image = registry.push(first, "busy:1")
    with pytest.raises(ImageNotFound, match="pull is 'never'"):
        await bring(cache, image, pull="never")
    one = await bring(cache, image)
    registry.push(layout({"Cmd": ["two"]}, name="second"), "busy:1")
    assert (await bring(cache, image)).digest == one.digest
    two = await bring(cache, image, pull="always")
    assert two.config.cmd == ["two"]
    assert (await bring(cache, image, pull="never")).digest == two.digest
    assert (await bring(cache, f"{image.rpartition(':')[0]}@{one.digest.replace('-', ':')}")).config.cmd == ["one"]


async def test_what_is_not_there(store: ImageStore, registry: Registry) -> None:
    cache = cache_of(store, **plain(registry))
    with pytest.raises(ImageNotFound, match="Look at name and tag"):
        await bring(cache, f"{registry.host}/nothing:1")
    with pytest.raises(ImageNotFound):
        await bring(cache, f"{registry.host}/nothing@sha256:{64 * '0'}")


async def test_a_registry_that_cannot_be_reached(store: ImageStore) -> None:
    with pytest.raises(ImagePullFailed, match="refused") as caught:
        await bring(cache_of(store), "127.0.0.1:1/x:1")
    assert caught.value.cause_kind == "network"


async def test_another_platform(store: ImageStore, layout: Layout, registry: Registry) -> None:
    image = registry.push(layout(architecture="s390x"), "busy:z")
    with pytest.raises(ImagePullFailed, match="s390x") as caught:
        await bring(cache_of(store, **plain(registry)), image)
    assert caught.value.cause_kind == "platform"


async def test_docker_manifests_and_zstd(store: ImageStore, layout: Layout, registry: Registry) -> None:
    cache = cache_of(store, **plain(registry))
    for name, *options in (("v2s2", "--format=v2s2"), ("zstd", "--dest-compress-format=zstd")):
        image = registry.push(layout({"Cmd": [name]}, name=name), f"busy:{name}", *options)
        assert (await bring(cache, image)).config.cmd == [name]


async def test_a_layer_that_is_here_is_not_fetched_again(store: ImageStore, layout: Layout, registry: Registry) -> None:
    cache = cache_of(store, **plain(registry))
    await bring(cache, registry.push(layout({"Cmd": ["one"]}, name="first"), "first:1"))
    second = registry.push(layout({"Cmd": ["two"]}, name="second"), "second:1")
    seen: list[Progress] = []
    await bring(cache, second, seen=seen)
    assert [each.total for each in seen if each.what.startswith("pulling")] == [0, 0]


async def test_many_askers_share_one_pull(store: ImageStore, layout: Layout, registry: Registry) -> None:
    image = registry.push(layout(), "busy:1")
    cache = cache_of(store, **plain(registry))
    askers = [asyncio.create_task(bring(cache, image, f"t{index}")) for index in range(6)]
    await asyncio.sleep(0)
    askers[0].cancel()
    results = await asyncio.gather(*askers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len({result.digest for result in results[1:] if isinstance(result, Unpacked)}) == 1
    assert os.listdir(store.folder / "tmp") == []
