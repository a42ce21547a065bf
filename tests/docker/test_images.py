"""Images of a real registry, by the real daemon: brought, listed, in use, taken away; and logged in for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dms_executor.errors import ExecutionCancelled, ImageInUse, ImageNotFound, ImagePullFailed
from dms_executor.types import Progress
from tests.dockerd import SESSION

from ..images.conftest import Layout, layout, nobody_is_logged_in
from ..registry import PASSWORD, USER, Registry, running_registry
from .session import Bench, opened

__all__ = ["layout", "nobody_is_logged_in"]

pytestmark = pytest.mark.skipif(bool(SESSION.missing()), reason=SESSION.missing())


@pytest.fixture
async def bench(tmp_path: Path, rootfs: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "state", rootfs) as ready:
        yield ready


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as running:
        yield running


def _has(image: str) -> bool:
    return SESSION.daemon().client("image", "inspect", image, check=False).returncode == 0


async def test_an_image_is_brought_listed_used_and_removed(bench: Bench, registry: Registry, layout: Layout) -> None:
    image = registry.push(layout({"Cmd": ["echo", "hi"]}), "busy:1")
    seen: list[Progress] = []
    pulled = await bench.executor.pull_image(image, engine="docker", progress=seen.append)
    assert (pulled.engine, pulled.references, pulled.pinned) == ("docker", [image], False)
    assert pulled.size > 500_000
    assert any(each.unit == "bytes" for each in seen), seen
    assert [info.digest for info in await bench.executor.images()] == [pulled.digest]
    request = bench.request("sleep", "1000", params={"image": image, "pull": "never"})
    await bench.executor.start(request)
    assert [info.pinned for info in await bench.executor.images()] == [True]
    with pytest.raises(ImageInUse):
        await bench.executor.remove_image(pulled.digest)
    assert (await bench.executor.prune_images(unused_for=0)).images == 0
    await bench.executor.cancel(request.execution_id, grace=0)
    await bench.removed()
    assert await bench.executor.remove_image(pulled.digest) == pulled.size
    assert await bench.executor.images() == []
    assert not _has(image)
    with pytest.raises(ImageNotFound):
        await bench.executor.remove_image(pulled.digest)


async def test_what_somebody_else_brought_stays(bench: Bench, registry: Registry, layout: Layout) -> None:
    theirs, ours = (registry.push(layout({"Cmd": [name]}, name=name), f"{name}:1") for name in ("theirs", "ours"))
    SESSION.daemon().client("pull", theirs)
    assert (await bench.executor.pull_image(theirs, engine="docker")).references == [theirs]
    await bench.executor.pull_image(ours, engine="docker")
    assert [info.references for info in await bench.executor.images()] == [[ours]]
    SESSION.daemon().client("tag", ours, "also-named:1")
    assert (await bench.executor.prune_images(unused_for=0)).images == 1
    assert _has(theirs), "an image of somebody else's was taken away"
    assert not _has(ours)
    assert _has("also-named:1"), "somebody else's name of an image was taken away"
    SESSION.daemon().client("rmi", theirs, "also-named:1")


async def test_a_name_that_moves_leaves_the_older_image_to_be_pruned(
    bench: Bench, registry: Registry, layout: Layout
) -> None:
    image = registry.push(layout({"Cmd": ["echo", "one"]}, name="one"), "busy:1")
    job = {"image": image, "pull": "always"}
    assert (await bench.run("echo", "hi", params=job)).stdout == b"hi\n"
    (older,) = await bench.executor.images()
    registry.push(layout({"Cmd": ["echo", "two"]}, name="two"), "busy:1")
    assert (await bench.run("echo", "hi", params=job)).stdout == b"hi\n"
    newest, oldest = await bench.executor.images()
    assert (newest.references, oldest.references, oldest.digest) == ([image], [], older.digest)
    await bench.removed()
    assert (await bench.executor.prune_images(unused_for=0)).images == 2
    assert not _has(older.digest)


async def test_credentials_go_along_with_the_pull(
    tmp_path: Path, rootfs: Path, layout: Layout, nobody_is_logged_in: Path
) -> None:
    with running_registry(tmp_path / "registry", password=True) as registry:
        image = registry.push(layout({"Cmd": ["true"]}), "private:1")
        async with opened(tmp_path / "state", rootfs) as bench:
            with pytest.raises((ImagePullFailed, ImageNotFound)) as caught:
                await bench.executor.pull_image(image, engine="docker")
            assert "credentials" in str(caught.value)
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            (nobody_is_logged_in / ".docker").mkdir()
            login = nobody_is_logged_in / ".docker/config.json"
            login.write_text(json.dumps({"auths": {registry.host: {"auth": pair}}}))
            pulled = await bench.executor.pull_image(image, engine="docker")
            await bench.executor.remove_image(pulled.digest)
            # A helper of the registry's counts before the file's own entries.
            helper = tmp_path / "docker-credential-test"
            answer = json.dumps({"Username": USER, "Secret": PASSWORD})
            helper.write_text(f"#!/bin/sh\necho '{answer}'\n")
            helper.chmod(0o755)
            login.write_text(json.dumps({"credHelpers": {registry.host: "test"}}))
            with pytest.raises(ImagePullFailed, match="not in PATH"):
                await bench.executor.pull_image(image, engine="docker")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", str(tmp_path), prepend=":")
                pulled = await bench.executor.pull_image(image, engine="docker")
            await bench.executor.remove_image(pulled.digest)


async def test_an_image_of_another_platform_is_not_used(bench: Bench, registry: Registry, layout: Layout) -> None:
    """Neither the one that is here, nor the one that the registry has."""
    image = registry.push(layout({"Cmd": ["true"]}), "busy:1")
    pulled = await bench.executor.pull_image(image, engine="docker")
    for pull in ("missing", "always"):
        with pytest.raises(ImagePullFailed) as caught:
            await bench.run("true", params={"image": image, "platform": "linux/s390x", "pull": pull})
        assert caught.value.cause_kind == "platform"
    with pytest.raises(ImageNotFound, match="s390x"):
        await bench.run("true", params={"image": image, "platform": "linux/s390x", "pull": "never"})
    assert (await bench.run("true", params={"image": image, "platform": pulled.platform})).exit_code == 0
    await bench.removed()
    await bench.executor.prune_images(unused_for=0)


@asynccontextmanager
async def _halting(registry: int, most: int, go_on: asyncio.Event) -> AsyncIterator[int]:
    """The port of a registry's front: of each connection `most` bytes come through before `go_on`."""
    tasks: set[asyncio.Task[None]] = set()

    async def bring(source: asyncio.StreamReader, sink: asyncio.StreamWriter, least: int | None) -> None:
        brought = 0
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 14):
                sink.write(data)
                brought += len(data)
                if least is not None and brought > least:
                    await go_on.wait()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", registry)
        tasks.add(asyncio.create_task(bring(reader, ours, None)))
        tasks.add(asyncio.create_task(bring(theirs, writer, most)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_pull_cancelled_midway_stops_and_can_be_made_again(
    bench: Bench, registry: Registry, layout: Layout
) -> None:
    image = registry.push(layout({"Cmd": ["echo", "hi"]}), "busy:1")
    go_on = asyncio.Event()
    async with asyncio.timeout(60), _halting(registry.port, 300_000, go_on) as port:
        image = image.replace(registry.host, f"127.0.0.1:{port}")
        seen: list[Progress] = []
        request = bench.request("echo", "hi", params={"image": image})
        starting = asyncio.create_task(bench.executor.start(request, progress=seen.append))
        while not any(each.unit == "bytes" and each.done for each in seen):
            await asyncio.sleep(0.02)
        await bench.executor.cancel(request.execution_id)
        with pytest.raises(ExecutionCancelled):
            await starting
        assert await bench.executor.get_status(request.execution_id) == "cancelled"
        while "context canceled" not in await asyncio.to_thread(bench.daemon.said):  # it stops the pull itself
            await asyncio.sleep(0.02)
        assert not _has(image)
        go_on.set()
        assert (await bench.run("echo", "hi", params={"image": image})).stdout == b"hi\n"
        await bench.removed()
        await bench.executor.prune_images(unused_for=0)
