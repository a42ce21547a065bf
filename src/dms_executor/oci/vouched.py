"""What `validate` has opened and found good, kept for the `prepare` that follows at once.

Only requests that name no host path but the image's: nothing is made for those, and `create` compares the image's
folder with the grant once more.
"""

from __future__ import annotations

import weakref

from ..policy import Grant
from ..types import ExecutionRequest
from ..volumes import Volumes, plain_volumes

__all__ = ["Vouched"]


class Vouched:
    """Grants by request. A request is told by being the same object, and forgotten with it: it may hold secrets."""

    def __init__(self) -> None:
        self._grants: dict[int, tuple[weakref.ref[ExecutionRequest], Grant | None, Volumes]] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def keep(self, request: ExecutionRequest, grant: Grant | None) -> None:
        """Remembers the grant of a request that names no other host path."""
        volumes = plain_volumes(request)
        if volumes is not None:
            number = id(request)
            self._grants[number] = weakref.ref(request, lambda _: self._grants.pop(number, None)), grant, volumes

    def take(self, request: ExecutionRequest) -> tuple[Grant | None, Volumes] | None:
        """What is remembered, once."""
        known = self._grants.pop(id(request), None)
        return (known[1], known[2]) if known is not None and known[0]() is request else None
