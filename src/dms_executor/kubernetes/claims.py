"""Volumes by claim: an input of type `volume` names a PersistentVolumeClaim of the pod's namespace.

None is made by a request, since nobody would take it away. https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from __future__ import annotations

import logging
import re

from ..errors import EngineUnreachable, InvalidRequest
from ..types import ExecutionRequest
from .client import ApiError, Client

__all__ = ["check_claims"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_log = logging.getLogger("dms_executor.kubernetes")


async def check_claims(request: ExecutionRequest, client: Client) -> None:
    """Raises `InvalidRequest` for one that is not there, `EngineUnreachable`.

    Without the right to look the scheduler says it later, as the reason why the pod waits.
    """
    for index, volume in enumerate(request.inputs):
        if volume.type != "volume":
            continue
        field = f"$.inputs[{index}].source"
        if not _NAME.fullmatch(volume.source or ""):
            raise InvalidRequest(
                f"{volume.source!r} is no claim's name", path=field, mend="Lower case, digits, '-', '.'"
            )
        try:
            await client.call("GET", f"persistentvolumeclaims/{volume.source}")
        except ApiError as error:
            if error.status == 403:
                _log.info("claims: %s", error)
                continue
            if error.status != 404:
                raise EngineUnreachable(error.message, mend="Look at its API server") from error
            raise InvalidRequest(
                f"the namespace {await client.namespace()} has no PersistentVolumeClaim {volume.source!r}",
                path=field,
                mend="Make it, or name another",
            ) from error
