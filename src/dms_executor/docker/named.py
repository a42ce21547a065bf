"""Named volumes: those that the daemon has. None is made by a request, since nobody would take it away.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Volume/operation/VolumeInspect
"""

from __future__ import annotations

from typing import Any

from ..errors import EngineUnreachable, InvalidRequest
from ..types import ExecutionRequest
from ..volumes import Volume
from .client import ApiError, Client
from .dialect import Dialect

__all__ = ["check_named_volumes", "volume_bind", "volume_mount"]


async def check_named_volumes(request: ExecutionRequest, client: Client, dialect: Dialect) -> None:
    """Raises `InvalidRequest` for one that is not there."""
    for index, volume in enumerate(request.inputs):
        if volume.type != "volume":
            continue
        try:
            await client.get(f"/volumes/{volume.source}")
        except ApiError as error:
            if error.status != 404:
                raise EngineUnreachable(error.message) from error
            raise InvalidRequest(
                f"the daemon has no volume {volume.source!r}",
                path=f"$.inputs[{index}].source",
                mend=f"{dialect.engine} volume create {volume.source}",
            ) from error


def volume_mount(volume: Volume) -> dict[str, Any]:
    """Its part of `HostConfig.Mounts`. What the image has there is not copied into a volume that is still empty."""
    options = {"NoCopy": True}
    return {
        "Type": "volume",
        "Source": volume.name,
        "Target": volume.target,
        "ReadOnly": volume.read_only,
        "VolumeOptions": options,
    }


def volume_bind(volume: Volume) -> str:
    """The same in `HostConfig.Binds`: Podman takes the option there alone."""
    return f"{volume.name}:{volume.target}:{'ro' if volume.read_only else 'rw'},nocopy"
