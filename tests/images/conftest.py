"""Images made on the spot from busybox-static; no registry is needed."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dms_executor.images import ImageStore
from dms_executor.images.cache import ImageCache
from dms_executor.images.config import host_architecture
from dms_executor.images.limits import ImageLimits
from dms_executor.images.registry import Registries
from dms_executor.images.unpack import Unpacker

from ..registry import Registry, running_registry

Layout = Callable[..., Path]


def cache_of(
    store: ImageStore, *, umoci: str | None = None, limits: ImageLimits = ImageLimits(), **registries: Any
) -> ImageCache:
    """As a process of its own would have it."""
    return ImageCache(store, Unpacker(store, umoci=umoci, limits=limits), Registries(**registries))


def layer(extra: Sequence[tarfile.TarInfo] = ()) -> bytes:
    """One layer: busybox, a few links and files, and `extra` empty ones."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "echo", "cat", "id", "env", "pwd", "sleep", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, text in (("etc/passwd", "app:x:1000:1001::/home/app:/bin/sh\n"), ("etc/group", "app:x:1001:\n")):
            file = tarfile.TarInfo(name)
            file.size = len(text)
            archive.addfile(file, io.BytesIO(text.encode()))
        for info in extra:
            archive.addfile(info)
    return data.getvalue()


def add_blob(folder: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Makes an OCI image layout: `layout(config={...}, tag="latest", architecture=...)`."""

    def make(
        config: dict[str, Any] | None = None,
        *,
        name: str = "layout",
        tag: str | None = "latest",
        architecture: str | None = None,
        extra: Sequence[tarfile.TarInfo] = (),
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        data = layer(extra)
        image = {
            "architecture": architecture or host_architecture(),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
            "history": [{"created_by": "test"}],
        }
        media = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": {"mediaType": f"{media}.config.v1+json", **add_blob(folder, json.dumps(image).encode())},
            "layers": [{"mediaType": f"{media}.layer.v1.tar", **add_blob(folder, data)}],
        }
        entry = {"mediaType": f"{media}.manifest.v1+json", **add_blob(folder, json.dumps(manifest).encode())}
        if tag is not None:
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        index = folder / "index.json"
        known = json.loads(index.read_text())["manifests"] if index.exists() else []
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*known, entry]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return folder

    return make


@pytest.fixture
def archive(layout: Layout, tmp_path: Path) -> Callable[[str], Path]:
    """The same image as an archive: `archive("docker-archive")`."""

    def make(transport: str) -> Path:
        file = tmp_path / f"{transport}.tar"
        folder = layout({"Cmd": ["true"]})
        command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{folder}:latest", f"{transport}:{file}:busy:1"]
        subprocess.run(command, check=True, capture_output=True)
        return file

    return make


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, so that no login of this machine counts."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Without TLS and without passwords."""
    with running_registry(tmp_path / "registry") as running:
        yield running
