"""A registry that breaks off in the middle of a layer, falls silent, has no time, or gives another manifest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from dms_executor.errors import ImagePullFailed
from dms_executor.images import ImageStore, Unpacked, download, parse_reference
from dms_executor.images.hosts import RegistryHost

from ..registry import Registry
from .conftest import Layout, cache_of


class Proxy(ThreadingHTTPServer):
    """In front of a registry: `breaks` cuts large blobs in half, `lies` adds a byte to manifests, `silent` holds
    their second half back, `busy` is how many requests it has no time for.
    """

    breaks = False
    lies = False
    busy = 0

    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = registry.port
        self.silent = Event()
        self.silent.set()

    def handle_error(self, *_: object) -> None:
        """A client that goes is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.server.behind, timeout=20)
        headers = {"Accept": ", ".join(self.headers.get_all("Accept") or ["*/*"])}
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if self.server.busy and "/manifests/" in self.path:
            self.server.busy -= 1
            self.send_response(429)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.lies and "/manifests/" in self.path:
            data += b"\n"
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        cut = self.server.breaks and len(data) > 100_000
        if len(data) > 100_000 and not self.server.silent.is_set():
            self.wfile.write(data[: len(data) // 2])
            data = data[len(data) // 2 :]
            self.server.silent.wait(60)
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    server = Proxy(registry)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


async def bring(store: ImageStore, proxy: Proxy, name: str) -> Unpacked:
    host = f"127.0.0.1:{proxy.server_port}"
    cache = cache_of(store, hosts={host: RegistryHost(tls=False)})
    image = f"{host}/{name}"
    return await cache.bring(parse_reference(image), None, image, "t", lambda _: None, 60.0)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


async def test_a_layer_that_breaks_off(store: ImageStore, layout: Layout, registry: Registry, proxy: Proxy) -> None:
    registry.push(layout({"Cmd": ["whole"]}), "busy:1")
    proxy.breaks = True
    with pytest.raises(ImagePullFailed) as caught:
        await bring(store, proxy, "busy:1")
    assert caught.value.cause_kind == "network"
    assert await asyncio.to_thread(os.listdir, store.folder / "tmp") == []
    proxy.breaks = False
    assert (await bring(store, proxy, "busy:1")).config.cmd == ["whole"]


async def test_a_manifest_of_another_digest(
    store: ImageStore, layout: Layout, registry: Registry, proxy: Proxy
) -> None:
    image = registry.push(layout({"Cmd": ["true"]}), "busy:1")
    digest = (await bring(store, proxy, image.partition("/")[2])).digest.replace("-", ":")
    proxy.lies = True
    with pytest.raises(ImagePullFailed, match="damaged"):
        await bring(ImageStore(store.folder / "other"), proxy, f"busy@{digest}")


async def test_a_registry_that_falls_silent(
    store: ImageStore, layout: Layout, registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PATIENCE", 1.0)
    registry.push(layout({"Cmd": ["whole"]}), "busy:1")
    proxy.silent.clear()
    with pytest.raises(ImagePullFailed, match="nothing came") as caught:
        await bring(store, proxy, "busy:1")
    assert caught.value.cause_kind == "network"
    assert await asyncio.to_thread(os.listdir, store.folder / "tmp") == []
    proxy.silent.set()
    assert (await bring(store, proxy, "busy:1")).config.cmd == ["whole"]


async def test_a_registry_that_has_no_time_is_asked_again(
    store: ImageStore, layout: Layout, registry: Registry, proxy: Proxy
) -> None:
    registry.push(layout({"Cmd": ["whole"]}), "busy:1")
    proxy.busy = 2
    assert (await bring(store, proxy, "busy:1")).config.cmd == ["whole"]
    proxy.busy = 1000
    with pytest.raises(ImagePullFailed, match="no more requests") as caught:
        await bring(ImageStore(store.folder / "other"), proxy, "busy:1")
    assert "log in" in caught.value.mend
