"""The `docker` engine: its probe, in this release."""

from __future__ import annotations

import asyncio
import json
import os
from typing import ClassVar

from ..planned import Missing, PlannedEngine

__all__ = ["DockerEngine"]

_SOCKET = "/var/run/docker.sock"
_DEADLINE = 2.0  # seconds: a daemon that hangs must not hold a probe
# https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemVersion
_QUESTION = b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n"


class DockerEngine(PlannedEngine):
    """Containers by a Docker daemon."""

    name: ClassVar[str] = "docker"
    rank: ClassVar[int] = 20

    async def look(self) -> Missing:
        """Whether a daemon answers on its socket, and its version."""
        host = os.environ.get("DOCKER_HOST") or f"unix://{_SOCKET}"
        if not host.startswith("unix://"):
            return Missing(problem=f"DOCKER_HOST is {host!r}, which is no local socket", mend="Unset DOCKER_HOST")
        path = host.removeprefix("unix://")
        try:
            async with asyncio.timeout(_DEADLINE):
                version = await _version(path)
        except FileNotFoundError:
            return Missing(
                problem=f"no Docker daemon: {path} does not exist", mend="Install docker.io and start dockerd"
            )
        except PermissionError:
            return Missing(problem=f"{path} may not be opened by this user", mend="Add the user to the group docker")
        except TimeoutError:
            return Missing(problem=f"the daemon at {path} does not answer", mend="Restart dockerd")
        except (OSError, ValueError) as error:
            return Missing(problem=f"the daemon at {path} does not answer: {error}", mend="Start dockerd")
        return Missing(version=version)


async def _version(path: str) -> str:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_QUESTION)
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ValueError("no version in its answer")
    return str(json.loads(body)["Version"])
