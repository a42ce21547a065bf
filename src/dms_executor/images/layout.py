"""An OCI image layout on disk: index, manifest and configuration, read through an opened folder.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. A layout comes from a stranger: every file is
opened beneath the folder, bounded, and compared with its digest.
"""

from __future__ import annotations

import hashlib
import os
import re

import msgspec

from ..beneath import open_regular
from ..errors import ImageNotFound, ImagePullFailed
from ..typed import known
from .config import Descriptor, ImageConfig, Manifest, check_platform, host_architecture, parse_config

__all__ = ["MOST_LAYERS", "LayoutImage", "for_this_host", "open_blob", "read_layout"]

_LIMIT = 4 << 20  # of index, manifest and configuration each, as containerd has it for manifests
_REF_NAME = "org.opencontainers.image.ref.name"
_DIGEST = re.compile("sha256:[0-9a-f]{64}", re.ASCII)
_DEPTH = 4
MOST_LAYERS = 127  # as Docker


class LayoutImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a layout, for this host: its manifest's descriptor, its configuration, the digests of its blobs."""

    manifest: Descriptor
    config: ImageConfig
    blobs: list[str] = []
    layers: list[Descriptor] = []

    @property
    def digest(self) -> str:
        """The manifest's digest as it may name a folder: "sha256-..."."""
        return self.manifest.digest.replace(":", "-")


def read_layout(folder: int, tag: str | None, image: str) -> LayoutImage:
    """The image `tag` of the layout that is open as `folder`. Raises `ImageNotFound`, `ImagePullFailed`. Blocks."""
    index = _manifest(_bounded(_opened(folder, "index.json", image), "index.json", image), image)
    descriptor = _chosen(index.manifests or [], tag, image)
    manifest = _manifest(_blob(folder, descriptor, image), image)
    for _ in range(_DEPTH):
        if manifest.manifests is None:
            break
        descriptor = for_this_host(manifest.manifests, image)
        manifest = _manifest(_blob(folder, descriptor, image), image)
    if manifest.config is None:
        raise _damaged(image, "it has no configuration")
    try:
        config = parse_config(_blob(folder, manifest.config, image))
    except msgspec.DecodeError as error:
        raise _damaged(image, f"its configuration is not readable ({error})") from error
    check_platform(config.architecture, config.os, image)
    layers = manifest.layers or []
    if len(layers) > MOST_LAYERS:
        raise _damaged(image, f"it has more than {MOST_LAYERS} layers")
    blobs = [entry.digest for entry in (descriptor, manifest.config, *layers)]
    return LayoutImage(manifest=descriptor, config=config, blobs=list(dict.fromkeys(blobs)), layers=layers)


def open_blob(folder: int, digest: str, image: str) -> int:
    """The regular file of a blob, opened. Raises `ImageNotFound`."""
    if not _DIGEST.fullmatch(digest):
        raise _damaged(image, f"{digest[:80]!r} is no sha256 digest")
    return _opened(folder, f"blobs/sha256/{digest[7:]}", image)


def _chosen(entries: list[Descriptor], tag: str | None, image: str) -> Descriptor:
    names = [(entry.annotations or {}).get(_REF_NAME) for entry in entries]
    for wanted in (tag, "latest") if tag is None else (tag,):
        matching = [entry for entry, name in zip(entries, names, strict=True) if wanted is not None and name == wanted]
        if len(matching) > 1:
            return for_this_host(matching, image)
        if matching:
            return matching[0]
    if tag is None and len(entries) == 1:
        return entries[0]
    if tag is None and entries and not any(names):
        return for_this_host(entries, image)
    known = ", ".join(name for name in names if name) or "none"
    raise ImageNotFound(
        f"the layout has no image {tag or 'latest'!r} ({image!r})", mend=f"Its tags: {known}; name one as oci:DIR:TAG"
    )


def for_this_host(entries: list[Descriptor], image: str) -> Descriptor:
    """The first entry of an index for this host. Raises `ImagePullFailed` (platform)."""
    host = host_architecture()
    for entry in entries:
        if entry.platform and (entry.platform.architecture, entry.platform.os) == (host, "linux"):
            return entry
    unknown = [entry for entry in entries if entry.platform is None]
    if len(unknown) == 1 and len(entries) == 1:
        return unknown[0]
    there = ", ".join(f"{entry.platform.os}/{entry.platform.architecture}" for entry in entries if entry.platform)
    raise ImagePullFailed(
        f"image {image!r} has nothing for linux/{host}", cause_kind="platform", mend=f"It has: {there or 'nothing'}"
    )


def _blob(folder: int, descriptor: Descriptor, image: str) -> bytes:
    data = _bounded(open_blob(folder, descriptor.digest, image), descriptor.digest, image)
    if hashlib.sha256(data).hexdigest() != descriptor.digest[7:]:
        raise _damaged(image, f"blob {descriptor.digest} has another content")
    return data


def _opened(folder: int, path: str, image: str) -> int:
    try:
        return open_regular(folder, os.fsencode(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        if path == "index.json":
            raise ImageNotFound(
                f"{image!r} is no OCI image layout: it has no index.json", mend="Name a layout's folder"
            ) from error
        raise _damaged(image, f"{path} is missing") from error
    except OSError as error:
        raise _damaged(image, f"{path}: {error.strerror}") from error


def _bounded(fd: int, path: str, image: str) -> bytes:
    with open(fd, "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise _damaged(image, f"{path} is larger than {_LIMIT} bytes")
    return data


def _manifest(data: bytes, image: str) -> Manifest:
    try:
        return msgspec.json.decode(data, type=known(Manifest))
    except msgspec.DecodeError as error:
        raise _damaged(image, f"not readable ({error})") from error


def _damaged(image: str, why: str) -> ImageNotFound:
    return ImageNotFound(f"image {image!r} is damaged: {why}", mend="Make or copy the image again")
