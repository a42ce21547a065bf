"""A start call that outlives who made it, taken back where no init of ours decides (`init=False`).

The call names the container. Who recovers gives that another name first: a call that the daemon reads later finds
none. One that it serves just then holds the container, and the look that follows waits for it. What is left is a call
that had found the container and did not hold it yet: such a job runs when its container is to be removed, which fails
without force, or the daemon tells of its start.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from ..errors import EngineUnreachable
from .client import ApiError
from .names import container_name
from .state import look_at

if TYPE_CHECKING:
    from .client import Client

__all__ = ["withdrawn"]

_CONFLICT = 409
_REMOVAL = 60.0


async def withdrawn(client: Client, container: str, token: str) -> bool:
    """Whether the job of a container that was created never ran, and never will. Raises `EngineUnreachable`."""
    try:
        await client.post(f"/containers/{container}/rename", name=f"{container_name(token)}-withdrawn")
    except ApiError as error:
        if error.is_gone:
            return True
        # Else it has that name, by somebody who died over the same.
    try:
        found = await look_at(client, container)
        if found is not None and found.has_started:
            return False
        await client.call("DELETE", f"/containers/{container}", deadline=_REMOVAL, v="1")
    except ApiError as error:
        if error.status == _CONFLICT:
            return False
        if not error.is_gone:
            raise EngineUnreachable(error.message) from error
    return not await _was_started(client, container)


async def _was_started(client: Client, container: str) -> bool:
    filters = json.dumps({"container": [container], "event": ["start"]})
    query = {"filters": filters, "since": "1", "until": str(int(time.time()) + 1)}
    try:
        async with client.stream("GET", "/events", query=query) as answer:
            async for event in answer.lines():
                return event.get("Action", event.get("status")) == "start"
    except ApiError as error:
        raise EngineUnreachable(error.message) from error
    return False
