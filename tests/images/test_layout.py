"""Reading a layout that a stranger made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dms_executor.errors import ImageNotFound, ImagePullFailed, InvalidRequest, NotSupported
from dms_executor.images import parse_reference
from dms_executor.images.layout import LayoutImage, read_layout

from .conftest import Layout


def read(folder: Path, tag: str | None = None) -> LayoutImage:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        return read_layout(fd, tag, f"oci:{folder}")
    finally:
        os.close(fd)


def test_the_configuration_is_read_and_unset_is_not_empty(layout: Layout) -> None:
    config = {"Entrypoint": [], "Env": ["A=1", "B=x=y"], "User": "app", "WorkingDir": "/w", "StopSignal": "SIGQUIT"}
    image = read(layout(config)).config
    assert image.entrypoint == []
    assert image.cmd is None
    assert image.environment == {"A": "1", "B": "x=y"}
    assert (image.user, image.working_directory, image.stop_signal) == ("app", "/w", "SIGQUIT")


def test_the_tag_chooses(layout: Layout) -> None:
    folder = layout({"Cmd": ["one"]}, tag="1")
    layout({"Cmd": ["two"]}, tag="2")
    assert read(folder, "2").config.cmd == ["two"]
    with pytest.raises(ImageNotFound, match="1, 2"):
        read(folder, "3")
    with pytest.raises(ImageNotFound):
        read(folder)


def test_the_only_image_needs_no_tag(layout: Layout) -> None:
    assert read(layout({"Cmd": ["it"]}, tag=None)).config.cmd == ["it"]


def test_another_architecture_is_refused(layout: Layout) -> None:
    with pytest.raises(ImagePullFailed) as error:
        read(layout(architecture="s390x"))
    assert error.value.cause_kind == "platform"


def test_a_folder_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="no OCI image layout"):
        read(tmp_path)


def test_a_changed_blob_is_refused(layout: Layout) -> None:
    folder = layout()
    for blob in (folder / "blobs" / "sha256").iterdir():
        if blob.stat().st_size < 5000:
            blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(ImageNotFound, match="another content"):
        read(folder)


@pytest.mark.parametrize("kind", ["folder", "device", "fifo"])
def test_an_index_that_is_no_file(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    if kind == "folder":
        (folder / "index.json").mkdir()
    elif kind == "device":
        os.mknod(folder / "index.json", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    else:
        os.mkfifo(folder / "index.json")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ImageNotFound, match="not a regular file"):
        read(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_blob_that_leads_out_is_refused(layout: Layout, tmp_path: Path) -> None:
    folder = layout()
    blobs = folder / "blobs" / "sha256"
    blobs.rename(tmp_path / "outside")
    blobs.symlink_to(tmp_path / "outside")
    with pytest.raises(ImageNotFound, match="damaged"):
        read(folder)


@pytest.mark.parametrize("image", ["docker-daemon:alpine", "dir:/x", "containers-storage:alpine"])
def test_other_transports_are_not_there(image: str) -> None:
    with pytest.raises(NotSupported, match="oci") as error:
        parse_reference(image, "oci")
    assert error.value.what == "$.engine_spec.params.image"


@pytest.mark.parametrize(
    ("image", "whole"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("docker://alpine:3.20", "docker.io/library/alpine:3.20"),
        ("team/tool", "docker.io/team/tool:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("registry.example/a/b:1", "registry.example/a/b:1"),
        ("host:5000", "docker.io/library/host:5000"),
        ("dir:5000", "docker.io/library/dir:5000"),
        (f"a@sha256:{64 * '0'}", f"docker.io/library/a@sha256:{64 * '0'}"),
        (f"a:1@sha256:{64 * '0'}", f"docker.io/library/a:1@sha256:{64 * '0'}"),
    ],
)
def test_names_are_completed_as_docker_does(image: str, whole: str) -> None:
    assert parse_reference(image).path == whole


@pytest.mark.parametrize(
    "image", ["", "Alpine", "a b", "a//b", "-x", "a:", "a@sha256:0", "a\n", "http://x/y", "x/../y", "é", 300 * "a"]
)
def test_what_is_no_name_of_an_image(image: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\$.engine_spec.params.image"):
        parse_reference(image)


@pytest.mark.parametrize(
    ("image", "path", "tag"),
    [
        ("oci:/a", "/a", None),
        ("oci:/a:b", "/a", "b"),
        ("oci:/a:b/c:1.0", "/a:b/c", "1.0"),
        ("rootfs:/a:b", "/a:b", None),
        ("docker-archive:/a.tar:busy:1", "/a.tar", "busy:1"),
    ],
)
def test_names_are_read_as_containers_image_reads_them(image: str, path: str, tag: str | None) -> None:
    reference = parse_reference(image)
    assert (reference.path, reference.tag) == (path, tag)


@pytest.mark.parametrize("image", ["oci:relative", "rootfs:", "oci:"])
def test_relative_paths_are_invalid(image: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(image)
