"""How much an image may hold, as the owner of the machine decides it."""

from __future__ import annotations

import msgspec

from ..types import ByteSize

__all__ = ["ImageLimits"]


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`entries`: files, folders and links; `size`: of all its layers together, in bytes; `expansion`: how many times
    its compressed size a layer of more than 1 GiB may have.
    """

    entries: int = 1_000_000
    size: ByteSize = ByteSize(32 << 30)
    expansion: int = 100
