"""`Lent`: descriptors that are opened for a shim, and closed here once it has them."""

from __future__ import annotations

import os

__all__ = ["Lent"]


class Lent:
    """In the order in which the shim's specification names them."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def keep(self, fd: int) -> int:
        """Takes it over, and gives it back for further use."""
        self.fds.append(fd)
        return fd

    def close(self) -> None:
        """Idempotent."""
        while self.fds:
            os.close(self.fds.pop())
