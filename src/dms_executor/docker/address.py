"""Where the daemon listens, as its own client finds it.

https://docs.docker.com/engine/manage-resources/contexts/, and for Podman
https://docs.podman.io/en/latest/markdown/podman-system-service.1.html
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import EngineUnavailable

__all__ = ["podman_path", "socket_path"]

_PODMAN = "/run/podman/podman.sock"
_USUAL = ("/var/run/docker.sock", "/run/docker.sock")
_UNIX = "unix://"
T = TypeVar("T")


class _Config(msgspec.Struct, rename={"current": "currentContext"}):
    current: str = ""


class _Endpoint(msgspec.Struct, rename={"host": "Host"}):
    host: str = ""


class _Context(msgspec.Struct, rename={"endpoints": "Endpoints"}):
    endpoints: dict[str, _Endpoint] = {}


def socket_path(setting: str | None) -> str:
    """The setting, `DOCKER_HOST`, the current context, a usual place. Blocks. Raises `EngineUnavailable`."""
    if setting is not None:
        return setting
    told = os.environ.get("DOCKER_HOST")
    host = told or _context_host()
    if host:
        return _local(host, "the Docker daemon", "DOCKER_HOST")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [*_USUAL, *([f"{runtime}/docker.sock"] if runtime else [])]
    return next((place for place in places if Path(place).exists()), places[0])


def podman_path(setting: str | None) -> str:
    """The setting, `CONTAINER_HOST`, the user's own service, the system's. Blocks. Raises `EngineUnavailable`."""
    if setting is not None:
        return setting
    if host := os.environ.get("CONTAINER_HOST"):
        return _local(host, "the Podman service", "CONTAINER_HOST")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = f"{runtime}/podman/podman.sock" if runtime else ""
    # Root's runtime folder is a user's like any other, and its service the system's.
    if own and (Path(own).exists() or os.geteuid() != 0):
        return own
    return _PODMAN


def _local(host: str, title: str, variable: str) -> str:
    if not host.startswith(_UNIX):
        raise EngineUnavailable(
            f"{title} at {host!r} is not this host's: it would look for mounts on its own",
            mend=f"Unset {variable}, or name a local socket by the engine's setting `socket`",
        )
    return host.removeprefix(_UNIX)


def _context_host() -> str:
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = os.environ.get("DOCKER_CONTEXT") or _read(folder / "config.json", _Config()).current
    if name in ("", "default"):
        return ""
    digest = hashlib.sha256(name.encode()).hexdigest()
    context = _read(folder / "contexts" / "meta" / digest / "meta.json", _Context())
    return context.endpoints.get("docker", _Endpoint()).host


def _read(path: Path, default: T) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type(default))
    except (OSError, msgspec.DecodeError):
        return default
