"""Where the daemon listens, as Docker's own client finds it.

https://docs.docker.com/engine/manage-resources/contexts/
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import EngineUnavailable

__all__ = ["socket_path"]

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
        if not host.startswith(_UNIX):
            raise EngineUnavailable(
                f"the Docker daemon at {host!r} is not this host's: it would look for mounts on its own",
                mend="Unset DOCKER_HOST, or name a local socket by the engine's setting `socket`",
            )
        return host.removeprefix(_UNIX)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [*_USUAL, *([f"{runtime}/docker.sock"] if runtime else [])]
    return next((place for place in places if Path(place).exists()), places[0])


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
