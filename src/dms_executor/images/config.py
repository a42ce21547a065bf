"""The configuration that an image brings: what runs where, as whom, with which environment.

https://github.com/opencontainers/image-spec/blob/main/config.md
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from ..errors import ImagePullFailed, InvalidRequest, StartFailed
from ..typed import known
from ..types import signal_number

__all__ = [
    "Descriptor",
    "ImageConfig",
    "Manifest",
    "check_platform",
    "command_of",
    "host_architecture",
    "parse_config",
    "stop_signal_of",
]

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest of an index is for."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Names one blob by its digest."""

    digest: str
    media_type: str = ""
    size: int = 0
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image's manifest, or an index: then `manifests` is there and `config` is not."""

    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


class _Inner(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    stop_signal: str | None = None
    volumes: dict[str, Any] | None = None


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str | None = None
    os: str | None = None
    config: _Inner | None = None


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine needs of it. None: the image does not say."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    environment: dict[str, str] = {}
    working_directory: str = ""
    user: str = ""
    stop_signal: str = ""
    architecture: str = ""
    os: str = ""


def parse_config(data: bytes) -> ImageConfig:
    """Raises `msgspec.DecodeError`."""
    raw = msgspec.json.decode(data, type=known(_Config))
    inner = raw.config or _Inner()
    environment = dict(word.partition("=")[::2] for word in inner.env or [] if not word.startswith("="))
    return ImageConfig(
        entrypoint=inner.entrypoint,
        cmd=inner.cmd,
        environment=environment,
        working_directory=inner.working_dir or "",
        user=inner.user or "",
        stop_signal=inner.stop_signal or "",
        architecture=raw.architecture or "",
        os=raw.os or "",
    )


def host_architecture() -> str:
    """This host's, in Go's words: amd64, arm64."""
    machine = os.uname().machine
    return _GO_ARCHITECTURES.get(machine, machine)


def check_platform(architecture: str, os_name: str, image: str) -> None:
    """Raises `ImagePullFailed` (platform) where the image says that it is for another."""
    host = host_architecture()
    if architecture in ("", host) and os_name in ("", "linux"):
        return
    raise ImagePullFailed(
        f"image {image!r} is for {os_name or 'linux'}/{architecture}, this host is linux/{host}",
        cause_kind="platform",
        mend=f"Use an image that has linux/{host}",
    )


def command_of(image: ImageConfig, entrypoint: list[str] | None, cmd: list[str] | None) -> list[str]:
    """The job's argv. An entrypoint of the request's own makes the image's command void, as Docker has it.

    Raises `StartFailed` where nobody names a command.
    """
    if cmd is None and entrypoint is None:
        cmd = image.cmd
    first = image.entrypoint if entrypoint is None else entrypoint
    argv = [*(first or []), *(cmd or [])]
    if not argv or not argv[0]:
        raise StartFailed("no command: the image names none", mend="Give params.cmd or params.entrypoint")
    return argv


def stop_signal_of(image: ImageConfig) -> int:
    """What ends the job gently; an image's own nonsense is no fault of the request."""
    try:
        return signal_number(image.stop_signal or "TERM")
    except InvalidRequest:
        return signal_number("TERM")
