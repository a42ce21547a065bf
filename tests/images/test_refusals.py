"""Registries with an authority of their own, with passwords, and such as refuse."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dms_executor.errors import ExecutorError, ImageNotFound, ImagePullFailed
from dms_executor.images import ImageStore, parse_reference
from dms_executor.images.cache import ImageCache
from dms_executor.images.hosts import RegistryHost

from ..registry import PASSWORD, USER, Registry, running_registry
from .conftest import Layout, cache_of

AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "state").mkdir()
    return ImageStore(tmp_path / "state")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Registry]:
    """A registry with TLS of its own authority, and with a password."""
    with running_registry(tmp_path / "closed", tls=True, password=True) as running:
        yield running


def trusting(store: ImageStore, registry: Registry) -> ImageCache:
    return cache_of(store, hosts={registry.host: RegistryHost(certificates=str(registry.authority))})


async def bring(cache: ImageCache, image: str) -> list[str] | None:
    brought = await cache.bring(parse_reference(image), None, image, "t", lambda _: None, 60.0)
    return brought.config.cmd


async def test_an_unknown_authority(store: ImageStore, closed: Registry) -> None:
    with pytest.raises(ImagePullFailed, match="certificates") as caught:
        await bring(cache_of(store), f"{closed.host}/busy:1")
    assert caught.value.cause_kind == "network"


async def test_nobody_is_logged_in(store: ImageStore, closed: Registry) -> None:
    with pytest.raises(ImagePullFailed, match="login") as caught:
        await bring(trusting(store, closed), f"{closed.host}/busy:1")
    assert caught.value.cause_kind == "auth"


@pytest.mark.parametrize("way", ["auth.json", "config.json", "credHelpers", "credsStore", "setting"])
async def test_credentials_of_the_usual_places(
    store: ImageStore,
    closed: Registry,
    layout: Layout,
    nobody_is_logged_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    image = closed.push(layout({"Cmd": ["in"]}), "busy:1")
    home = nobody_is_logged_in
    plain = json.dumps({"auths": {closed.host: {"auth": AUTH}}})
    helper = home / "docker-credential-test"
    answer = json.dumps({"ServerURL": closed.host, "Username": USER, "Secret": PASSWORD})
    helper.write_text(f'#!/bin/sh\n[ "$1" = get ] && name=$(cat) && [ "$name" = {closed.host} ] && echo \'{answer}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    place, text = {
        "auth.json": (".config/containers/auth.json", plain),
        "config.json": (".docker/config.json", plain),
        "credHelpers": (".docker/config.json", json.dumps({"credHelpers": {closed.host: "test"}})),
        "credsStore": (".docker/config.json", json.dumps({"auths": {closed.host: {}}, "credsStore": "test"})),
        "setting": ("elsewhere.json", plain),
    }[way]
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_text(text)
    hosts = {closed.host: RegistryHost(certificates=str(closed.authority))}
    auth_file = str(home / place) if way == "setting" else None
    assert await bring(cache_of(store, hosts=hosts, auth_file=auth_file), image) == ["in"]
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
            assert AUTH.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "text", ["{", '{"auths": 3}', '{"auths": {"HOST": {"auth": "?"}}}', '{"credHelpers": {"HOST": "no"}}']
)
async def test_an_unusable_file_is_named_and_not_quoted(
    store: ImageStore, closed: Registry, nobody_is_logged_in: Path, text: str
) -> None:
    path = nobody_is_logged_in / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text.replace("HOST", closed.host))
    with pytest.raises(ImagePullFailed, match=r"config\.json") as caught:
        await bring(trusting(store, closed), f"{closed.host}/busy:1")
    assert caught.value.cause_kind == "auth"


async def test_a_wrong_password_is_told_nowhere(
    store: ImageStore, closed: Registry, nobody_is_logged_in: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    path = nobody_is_logged_in / ".docker/config.json"
    path.parent.mkdir()
    wrong = base64.b64encode(b"app:a-wrong-secret").decode()
    path.write_text(json.dumps({"auths": {closed.host: {"auth": wrong}}}))
    with pytest.raises(ImagePullFailed) as caught:
        await bring(trusting(store, closed), f"{closed.host}/busy:1")
    assert caught.value.cause_kind == "auth"
    said = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "a-wrong-secret" not in said
    assert wrong not in said


class _Refusing(BaseHTTPRequestHandler):
    """Answers every question for an image with the server's `status`."""

    def do_GET(self) -> None:
        status = 200 if self.path == "/v2/" else self.server.status  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (401, ImagePullFailed, "auth"),
        (403, ImagePullFailed, "auth"),
        (404, ImageNotFound, None),
        (500, ImagePullFailed, "network"),
        (503, ImagePullFailed, "network"),
    ],
)
async def test_a_registry_that_refuses(
    store: ImageStore, status: int, kind: type[ExecutorError], cause: str | None
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    server.status = status  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        host = f"127.0.0.1:{server.server_port}"
        with pytest.raises(kind) as caught:
            await bring(cache_of(store, hosts={host: RegistryHost(tls=False)}), f"{host}/busy:1")
        assert getattr(caught.value, "cause_kind", None) == cause
        assert caught.value.mend
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()
